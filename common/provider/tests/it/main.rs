//! The clients over real sockets against a server that plays prepared bytes, well-formed and not.

mod ollama;
mod openai_shape;
mod server;
mod support;
