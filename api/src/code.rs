//! The stable codes of findings about single documents. `PLN10xx` reading, `PLN11xx`-`PLN19xx` the rules of each kind.
//!
//! In: nothing. Out: names for codes. A code keeps its meaning for ever.

/// Istio's code for what violates the schema or a rule of the field.
pub const SCHEMA_ERROR: &str = "IST0106";
/// Istio's code for what is legal and suspicious.
pub const SCHEMA_WARNING: &str = "IST0133";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $code;)*
        /// Every code of this list.
        pub const ALL: &[&str] = &[$($code),*];
    };
}

codes! {
    /// The text is not YAML.
    SYNTAX = "PLN1001";
    /// A key stands twice in one mapping.
    DUPLICATE_KEY = "PLN1002";
    /// Too deep, too large, or aliases that expand to too much.
    LIMIT = "PLN1003";
    /// Not an object: `apiVersion`, `kind` or `metadata.name` is missing.
    NOT_AN_OBJECT = "PLN1004";
    /// A kind or version that its API group does not have.
    UNKNOWN_KIND = "PLN1005";
    /// A kind that Pillion refuses.
    REFUSED_KIND = "PLN1006";
    /// A kind of which Pillion knows, and that has no effect.
    UNSUPPORTED_KIND = "PLN1007";
    /// Bad metadata: name, namespace, labels.
    METADATA = "PLN1008";
    /// A field that the message does not have.
    UNKNOWN_FIELD = "PLN1010";
    /// A value of the wrong YAML type.
    WRONG_TYPE = "PLN1011";
    /// Not a value of the enumeration.
    BAD_ENUM = "PLN1012";
    /// Not a duration.
    BAD_DURATION = "PLN1013";
    /// A number outside its range.
    OUT_OF_RANGE = "PLN1014";
    /// Fields that exclude each other.
    ONE_OF = "PLN1015";
    /// A field or value that Pillion refuses.
    REFUSED_FIELD = "PLN1016";
    /// A field, value or kind that is accepted and has no effect yet.
    NOT_ENFORCED = "PLN1017";
    /// A required field is missing or empty.
    REQUIRED = "PLN1018";

    /// Not a host name, or not one that is allowed here.
    HOST_NAME = "PLN1101";
    /// Not the name of a gateway.
    GATEWAY_NAME = "PLN1102";
    /// `exportTo` says nothing, or several things at once.
    EXPORT_TO = "PLN1103";
    /// Not a port.
    PORT = "PLN1104";
    /// Not the name of a header, parameter or method.
    HEADER_NAME = "PLN1105";
    /// Not an RE2 expression.
    REGEX = "PLN1106";
    /// A comparison with nothing.
    EMPTY_MATCH = "PLN1107";
    /// A duration that is too short or too fine.
    DURATION = "PLN1108";
    /// Not a percentage.
    PERCENT = "PLN1109";
    /// A route does nothing, or several things at once.
    ROUTE_ACTION = "PLN1110";
    /// Weights that choose nothing.
    WEIGHT = "PLN1111";
    /// A redirect that goes nowhere.
    REDIRECT = "PLN1112";
    /// Not a status code.
    STATUS_CODE = "PLN1113";
    /// Retries are configured and disabled.
    RETRIES_DISABLED = "PLN1114";
    /// Not a retry condition.
    RETRY_ON = "PLN1115";
    /// A fault that does nothing.
    FAULT = "PLN1116";
    /// A rewrite that does nothing, or several things at once.
    REWRITE = "PLN1117";
    /// A delegation that cannot be followed.
    DELEGATE = "PLN1118";
    /// Mirrors that exclude each other.
    MIRROR = "PLN1119";
    /// SNI hosts that the VirtualService does not have.
    SNI = "PLN1120";
    /// Two things with one name.
    DUPLICATE = "PLN1121";
    /// Not an address or a block of addresses.
    ADDRESS = "PLN1122";
    /// Not a label, a name or an annotation key.
    LABEL = "PLN1123";
    /// A body that is too large.
    BODY = "PLN1124";
    /// A header value that the proxy would not take.
    HEADER_VALUE = "PLN1125";
    /// A block that says nothing.
    EMPTY_BLOCK = "PLN1126";
    /// A value that has no effect as it is written.
    INEFFECTIVE = "PLN1127";

    /// A negative limit.
    NEGATIVE = "PLN1201";
    /// Load balancing that contradicts itself.
    LOAD_BALANCER = "PLN1202";
    /// Locality settings that contradict themselves.
    LOCALITY = "PLN1203";
    /// Client TLS settings that contradict themselves.
    CLIENT_TLS = "PLN1204";
    /// A tunnel without an end.
    TUNNEL = "PLN1205";

    /// Not a protocol.
    PROTOCOL = "PLN1301";
    /// Server TLS settings that contradict themselves.
    SERVER_TLS = "PLN1302";
    /// Two servers of a Gateway that exclude each other.
    SERVER_CONFLICT = "PLN1303";

    /// Resolution, addresses and endpoints that do not fit.
    RESOLUTION = "PLN1401";
    /// An endpoint that does not fit its service.
    ENDPOINT = "PLN1402";
    /// TCP traffic that cannot be told apart without an address.
    ADDRESS_REQUIRED = "PLN1403";
    /// A probe that checks nothing.
    PROBE = "PLN1404";

    /// A listener of a Sidecar that cannot be.
    LISTENER = "PLN1501";

    /// Port-level mutual TLS without a selector, or without ports.
    PORT_LEVEL_MTLS = "PLN1601";
    /// A token rule that cannot work.
    JWT = "PLN1603";
    /// A target that cannot be.
    TARGET = "PLN1604";
    /// A rule of an AuthorizationPolicy that says nothing.
    EMPTY_RULE = "PLN1605";
    /// Not a condition.
    CONDITION = "PLN1606";
    /// An action that the policy cannot have.
    ACTION = "PLN1607";
    /// A path template that cannot be.
    PATH_TEMPLATE = "PLN1608";

    /// Telemetry that contradicts itself.
    TELEMETRY = "PLN1701";

    /// Mesh settings that cannot be.
    MESH = "PLN1801";

    /// A Service that cannot be reached.
    SERVICE = "PLN1901";
    /// A Workload or Deployment that cannot run.
    WORKLOAD = "PLN1902";
}
