//! The servers start, answer, come back and leave nothing behind.

mod leash;
mod mongo;
mod redis;
