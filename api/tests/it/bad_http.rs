//! bad_http
