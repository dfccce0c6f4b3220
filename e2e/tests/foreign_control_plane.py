"""A control plane that is not ours: gRPC's own Python and gRPC's own copy of Envoy's messages.

Usage: foreign_control_plane.py BACKEND_PORT FRONT_PORT SECOND_PORT
Prints {"xds": PORT}, then one line per ACK or NACK. Each line of standard input is the number of the step to go to.
"""

import json
import queue
import sys
import threading
from concurrent import futures

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2  # noqa: F401, known to the JSON reader
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import json_format

BACKEND, FRONT, SECOND = (int(port) for port in sys.argv[1:4])
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
FILTERS = "type.googleapis.com/envoy.extensions.filters"


def cluster(name, **more):
    address = {"socket_address": {"address": "127.0.0.1", "port_value": BACKEND}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    assignment = {"cluster_name": name, "endpoints": endpoints}
    return cluster_pb2.Cluster, {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment, **more}


def listener(name, port, mark, filters=(), **action):
    route = {"match": {"prefix": "/"}, "route": {"cluster": "good", **action}}
    route["response_headers_to_add"] = [{"header": {"key": "x-mark", "value": mark}}]
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [*filters, {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"}}],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return listener_pb2.Listener, {"name": name, "address": address, "filter_chains": [chain]}


AUTHZ = {"name": "envoy.filters.http.ext_authz", "typed_config": {"@type": f"{FILTERS}.http.ext_authz.v3.ExtAuthz"}}
STEPS = {
    1: [cluster("good"), listener("front", FRONT, "one")],
    # One resource of each type asks for what the proxy does not do; the others are news.
    2: [
        cluster("good"),
        cluster("sharded", lb_policy="MAGLEV"),
        listener("front", FRONT, "two"),
        listener("second", SECOND, "never", filters=[AUTHZ]),
    ],
    # What served so far becomes a resource that cannot be served.
    3: [
        cluster("good"),
        cluster("sharded", lb_policy="ROUND_ROBIN"),
        listener("front", FRONT, "never", request_mirror_policies=[{"cluster_header": "x-mirror"}]),
        listener("second", SECOND, "three"),
    ],
    4: [cluster("good"), cluster("sharded"), listener("front", FRONT, "four"), listener("second", SECOND, "four")],
}


def resources(step, type_url):
    for kind, fields in STEPS[step]:
        message = json_format.ParseDict(fields, kind())
        if type_url.endswith("/" + message.DESCRIPTOR.full_name):
            resource = discovery_pb2.Resource(name=fields["name"], version=str(step))
            resource.resource.Pack(message)
            yield resource


def say(**what):
    print(json.dumps(what), flush=True)


class Ads(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    def __init__(self):
        self.step, self.streams = 1, []

    def go_to(self, step):
        self.step = step
        for stream in self.streams:
            for type_url in (CLUSTER, LISTENER):
                stream.put(type_url)

    def DeltaAggregatedResources(self, requests, _context):
        wanted = queue.Queue()
        self.streams.append(wanted)
        threading.Thread(target=self.read, args=(requests, wanted), daemon=True).start()
        number = 0
        while (type_url := wanted.get()) is not None:
            number += 1
            step = self.step
            response = discovery_pb2.DeltaDiscoveryResponse(system_version_info=str(step), type_url=type_url, nonce=f"{step}/{number}")
            response.resources.extend(resources(step, type_url))
            yield response

    @staticmethod
    def read(requests, wanted):
        try:
            for request in requests:
                if not request.response_nonce:
                    wanted.put(request.type_url)
                elif request.type_url in (CLUSTER, LISTENER):
                    kind, step = request.type_url.rsplit(".", 1)[1], int(request.response_nonce.split("/")[0])
                    say(type=kind, step=step, nack=request.error_detail.message or None)
        except grpc.RpcError:
            pass
        wanted.put(None)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
ads = Ads()
ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(ads, server)
say(xds=server.add_insecure_port("127.0.0.1:0"))
server.start()
for line in sys.stdin:
    ads.go_to(int(line))
