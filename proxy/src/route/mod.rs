//! Which route serves a request, and what the route changes about it. Pure rules.
//!
//! In:  a request's head and a route table.
//! Out: the route; rewritten heads; redirects; faults to inject.

pub mod template;
