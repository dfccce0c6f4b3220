//! Whether a request may go where its route leads. The stage between `route` and `retry`.
//!
//! In:  a request's head and its route.
//! Out: nothing yet: no policy of this version of the mesh is enforced by the proxy (the control plane says so loudly), so every request may pass.
