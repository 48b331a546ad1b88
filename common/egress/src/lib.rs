//! Requests to addresses that a tenant chose.
