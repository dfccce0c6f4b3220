//! Generates the wire types from `proto/` without protoc.
//!
//! In:  the Envoy, xDS and Istio protos under `proto/` (see `proto/README.md`).
//! Out: `$OUT_DIR/wire.rs`, one module per protobuf package, and for proto3 JSON
//!      `$OUT_DIR/descriptors.bin` and `$OUT_DIR/sensitive.txt`, the fields that a dump must not show.

use std::{env, error::Error, fs, path::Path};

use protox::prost_reflect::{
    FieldDescriptor, MessageDescriptor,
    prost_types::{
        DescriptorProto, EnumDescriptorProto, EnumOptions, FieldOptions, FileDescriptorProto, FileDescriptorSet, MessageOptions,
    },
};

/// The messages we name ourselves; everything they import comes along.
const ROOTS: &[&str] = &[
    "envoy/service/discovery/v3/ads.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
    "envoy/extensions/filters/network/rbac/v3/rbac.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/http/fault/v3/fault.proto",
    "envoy/extensions/filters/http/cors/v3/cors.proto",
    "envoy/extensions/filters/http/rbac/v3/rbac.proto",
    "envoy/extensions/filters/http/jwt_authn/v3/config.proto",
    "envoy/extensions/filters/http/ext_authz/v3/ext_authz.proto",
    "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
    "envoy/extensions/filters/listener/http_inspector/v3/http_inspector.proto",
    "envoy/extensions/filters/listener/original_dst/v3/original_dst.proto",
    "envoy/extensions/filters/listener/proxy_protocol/v3/proxy_protocol.proto",
    "envoy/extensions/common/dynamic_forward_proxy/v3/dns_cache.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    "envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/extensions/access_loggers/file/v3/file.proto",
    "envoy/extensions/access_loggers/stream/v3/stream.proto",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
    "envoy/extensions/retry/priority/previous_priorities/v3/previous_priorities_config.proto",
    "envoy/extensions/load_balancing_policies/least_request/v3/least_request.proto",
    "envoy/extensions/load_balancing_policies/round_robin/v3/round_robin.proto",
    "envoy/extensions/load_balancing_policies/random/v3/random.proto",
    "envoy/extensions/load_balancing_policies/ring_hash/v3/ring_hash.proto",
    "envoy/extensions/load_balancing_policies/maglev/v3/maglev.proto",
    "envoy/service/secret/v3/sds.proto",
    "envoy/admin/v3/config_dump.proto",
    "envoy/config/bootstrap/v3/bootstrap.proto",
    "envoy/extensions/filters/http/dynamic_forward_proxy/v3/dynamic_forward_proxy.proto",
    "envoy/extensions/clusters/dynamic_forward_proxy/v3/cluster.proto",
    "istio/networking/nds/v1/nds.proto",
    "istio/v1/auth/ca.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let out = env::var("OUT_DIR")?;
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(ROOTS)?;
    let descriptors = compiler.file_descriptor_set();
    let bare = descriptors.file.iter().filter(|file| !is_annotation(file.name())).cloned().map(bare).collect();
    let bare = FileDescriptorSet { file: bare };
    fs::write(Path::new(&out).join("descriptors.bin"), prost::Message::encode_to_vec(&bare))?;
    let mut sensitive: Vec<String> = compiler.descriptor_pool().all_messages().flat_map(|message| sensitive(&message)).collect();
    sensitive.sort();
    fs::write(Path::new(&out).join("sensitive.txt"), sensitive.join("\n"))?;

    let mut config = prost_build::Config::new();
    config
        .compile_well_known_types()
        // Payloads are shared between a thousand streams, and maps are encoded in one order: equal content, equal bytes.
        .bytes(["."])
        .btree_map(["."])
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .disable_comments(["."])
        .include_file("wire.rs");
    tonic_prost_build::configure()
        .build_server(true)
        .build_client(true)
        .compile_well_known_types(true)
        .disable_comments(["."])
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// Files that only say things about fields; nobody sends their messages.
fn is_annotation(file: &str) -> bool {
    ["validate/", "udpa/annotations/", "xds/annotations/", "envoy/annotations/", "google/protobuf/descriptor.proto"]
        .iter()
        .any(|prefix| file.starts_with(prefix))
}

/// What JSON needs of a file: it is inside every proxy, so comments, services, and options other than those of the encoding are left out.
fn bare(mut file: FileDescriptorProto) -> FileDescriptorProto {
    file.source_code_info = None;
    file.options = None;
    file.service.clear();
    file.extension.clear();
    file.dependency.retain(|name| !is_annotation(name));
    file.public_dependency.clear();
    file.weak_dependency.clear();
    file.message_type.iter_mut().for_each(bare_message);
    file.enum_type.iter_mut().for_each(bare_enum);
    file
}

fn bare_message(message: &mut DescriptorProto) {
    let is_map = message.options.as_ref().is_some_and(|options| options.map_entry());
    message.options = is_map.then(|| MessageOptions { map_entry: Some(true), ..MessageOptions::default() });
    message.reserved_name.clear();
    message.reserved_range.clear();
    message.extension.clear();
    for field in &mut message.field {
        // None of ours is another than the one that follows from the name.
        field.json_name = None;
        let packed = field.options.as_ref().and_then(|options| options.packed);
        field.options = packed.map(|packed| FieldOptions { packed: Some(packed), ..FieldOptions::default() });
    }
    message.oneof_decl.iter_mut().for_each(|oneof| oneof.options = None);
    message.nested_type.iter_mut().for_each(bare_message);
    message.enum_type.iter_mut().for_each(bare_enum);
}

fn bare_enum(list: &mut EnumDescriptorProto) {
    let alias = list.options.as_ref().and_then(|options| options.allow_alias);
    list.options = alias.map(|alias| EnumOptions { allow_alias: Some(alias), ..EnumOptions::default() });
    list.reserved_name.clear();
    list.reserved_range.clear();
    list.value.iter_mut().for_each(|value| value.options = None);
}

/// The full names of the fields of a message that Envoy marks as secret. Source: `udpa.annotations.sensitive`.
fn sensitive(message: &MessageDescriptor) -> Vec<String> {
    let is_sensitive = |field: &FieldDescriptor| {
        field
            .options()
            .extensions()
            .any(|(extension, value)| extension.full_name() == "udpa.annotations.sensitive" && value.as_bool() == Some(true))
    };
    message.fields().filter(is_sensitive).map(|field| field.full_name().to_owned()).collect()
}
