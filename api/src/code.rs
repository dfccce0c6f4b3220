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
}
