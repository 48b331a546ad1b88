//! Requests to addresses that a tenant chose, and the wire format of webhooks.
//!
//! Whoever may name a URL that this process then calls may try to reach what only this process can reach. So a URL is vetted when it
//! is named ([`vet_url`]) and again at every call, every address its name resolves to is vetted before a connection is opened, and
//! the connection goes to the vetted address ([`GuardedClient`]). The rest is Standard Webhooks 1.0.0: [`signature`] and [`retry`].

mod address;
mod client;
mod extra_headers;
mod fetch;
mod policy;
mod resolver;
pub mod retry;
mod retry_after;
pub mod signature;

pub use address::is_public;
pub use client::{Answer, ClientError, Deadlines, GuardedClient, MAX_ANSWER_BYTES, SendError};
pub use extra_headers::{HeadersRefused, extra_headers};
pub use fetch::{Fetched, Patience};
pub use ipnet::IpNet;
pub use policy::{MAX_URL_BYTES, UrlPolicy, UrlRefused, vet_url};
pub use reqwest::header::{self, HeaderMap};
pub use resolver::{Resolver, SystemResolver};
pub use signature::{Checker, Secret, SecretRefused, Signer, SigningKey};
pub use url::Url;
