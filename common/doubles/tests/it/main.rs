//! The doubles as a client sees them: bytes on a socket, checked against the providers' pages.

mod client;
mod faults;
mod ledger;
mod ollama;
mod openai;
mod openrouter;
mod plans;
mod program;
mod proxy;
