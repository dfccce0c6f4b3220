//! The declarations from which types, decoders and the table are made, so that the three cannot diverge.
//!
//! In:  one declaration per message or enumeration. Out: its type, its [`Decode`](crate::decode::Decode), its row of the table.

/// The status of a field: `enforced`, `pending`, `inert`, `label`, or `refused "the alternative"`.
macro_rules! status {
    (enforced) => {
        $crate::table::Status::Enforced
    };
    (pending) => {
        $crate::table::Status::NotYetEnforced
    };
    (inert) => {
        $crate::table::Status::Inert
    };
    (label) => {
        $crate::table::Status::Label
    };
    (refused $alternative:literal) => {
        $crate::table::Status::Refused { alternative: $alternative }
    };
}

/// Declares a message. Flipping a field's status is a change of one word.
///
/// ```text
/// message! {
///     /// What it is.
///     pub struct Retry = "HTTPRetry" {
///         "attempts" attempts: i32, enforced;
///         "backoff" backoff: Option<Duration>, pending;
///     }
///     one_of [["a", "b"]]
///     retired [("old", "use new")]
/// }
/// ```
macro_rules! message {
    (
        $(#[$doc:meta])*
        pub struct $name:ident = $proto:literal $(($open:ident))? {
            $($(#[$field_doc:meta])* $json:literal $field:ident : $ty:ty, $status:ident $($alternative:literal)?;)*
        }
        $(one_of [$([$($member:literal),*]),*])?
        $(retired [$(($old:literal, $instead:literal)),* $(,)?])?
        $(ignored [$($ignored:literal),*])?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $ty,)*
        }

        impl $name {
            /// Its row of the table.
            pub const INFO: &'static $crate::table::MessageInfo = {
                const FIELDS: &[$crate::table::FieldInfo] = &[$(
                    $crate::table::FieldInfo {
                        name: $json,
                        proto_name: $crate::message::plain(stringify!($field)),
                        ty: <$ty as $crate::decode::Decode>::TYPE,
                        status: status!($status $($alternative)?),
                    },
                )*];
                const ONE_OF: &[&[&str]] = &[$($(&[$($member),*]),*)?];
                const RETIRED: &[(&str, &str)] = &[$($(($old, $instead)),*)?];
                static INFO: $crate::table::MessageInfo = $crate::table::MessageInfo {
                    name: $proto,
                    fields: FIELDS,
                    one_of: ONE_OF,
                    retired: RETIRED,
                    ignored: &[$($($ignored),*)?],
                    open: message!(@open $($open)?),
                };
                &INFO
            };
        }

        impl $crate::decode::Decode for $name {
            const TYPE: $crate::table::Type = $crate::table::Type::Message($name::INFO);

            #[allow(unused_mut, unused_variables, unused_assignments)]
            fn decode(
                node: &$crate::node::Node,
                path: &$crate::path::Path<'_>,
                cx: &mut $crate::decode::Decoder<'_>,
            ) -> Option<Self> {
                const NULLS: &[bool] = &[$(<$ty as $crate::decode::Decode>::TAKES_NULL),*];
                let mut out = Self::default();
                cx.message(Self::INFO, node, path, NULLS, |cx, position, node, path| {
                    let mut at = 0;
                    $(
                        if position == at {
                            if let Some(value) = <$ty as $crate::decode::Decode>::decode(node, path, cx) {
                                out.$field = value;
                            }
                            return;
                        }
                        at += 1;
                    )*
                })?;
                Some(out)
            }
        }
    };
    (@open) => { false };
    (@open open) => { true };
}

/// Declares an enumeration; its first value is the default, as proto3 has it.
macro_rules! enumeration {
    (
        $(#[$doc:meta])*
        pub enum $name:ident = $proto:literal {
            $(#[$first_doc:meta])* $first_json:literal $first_number:literal $first:ident, $first_status:ident $($first_alternative:literal)?;
            $($(#[$value_doc:meta])* $json:literal $number:literal $value:ident, $status:ident $($alternative:literal)?;)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $(#[$first_doc])* #[default] $first,
            $($(#[$value_doc])* $value,)*
        }

        impl $name {
            /// Its row of the table.
            pub const INFO: &'static $crate::table::EnumInfo = {
                static INFO: $crate::table::EnumInfo = $crate::table::EnumInfo {
                    name: $proto,
                    values: &[
                        $crate::table::ValueInfo { name: $first_json, number: $first_number, status: status!($first_status $($first_alternative)?) },
                        $($crate::table::ValueInfo { name: $json, number: $number, status: status!($status $($alternative)?) },)*
                    ],
                };
                &INFO
            };

            /// The value as YAML writes it.
            pub fn as_str(self) -> &'static str {
                match self {
                    Self::$first => $first_json,
                    $(Self::$value => $json,)*
                }
            }
        }

        impl $crate::decode::Decode for $name {
            const TYPE: $crate::table::Type = $crate::table::Type::Enum($name::INFO);
            fn decode(
                node: &$crate::node::Node,
                path: &$crate::path::Path<'_>,
                cx: &mut $crate::decode::Decoder<'_>,
            ) -> Option<Self> {
                match cx.enumeration(Self::INFO, node, path)? {
                    $first_number => Some(Self::$first),
                    $($number => Some(Self::$value),)*
                    _ => None,
                }
            }
        }
    };
}

/// The name of a field without the `r#` that keywords need.
pub(crate) const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', rest @ ..] => match std::str::from_utf8(rest) {
            Ok(name) => name,
            Err(_) => name,
        },
        _ => name,
    }
}

pub(crate) use {enumeration, message, status};
