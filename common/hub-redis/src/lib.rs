//! The hub on Redis, for a fleet: hints in one sorted set, lanes in Lua, signals by publish and subscribe.
//!
//! Nothing in Redis must survive. Hints come back by the sweeps; what a lane may do is known to every process that uses it, and
//! each tells it again once a second. Start at [`RedisHub`]; the contracts are those of `promptmill_ports`.

mod connection;
mod examine;
mod hub;
mod lane;
mod lanes;
mod link;
mod message;
mod meter;
mod queue;
mod script;
mod signals;
mod target;

pub use examine::examine;
pub use hub::{ConnectError, RedisHub, RedisHubOptions};
pub use target::UrlError;
