//! promptmill-cli
