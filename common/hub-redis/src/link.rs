//! The connection that commands share, made anew when it breaks.
//!
//! The library's connection manager keeps a connection on which answers no longer come, and knows nothing of Sentinel; here every
//! connection that fails is replaced, by one to whoever is the master then. Commands of a hub may be repeated, so one whose
//! connection broke is sent once more.

use std::time::{Duration, Instant};

use promptmill_ports::HubError;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind, Value};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;

use crate::connection::Connection;
use crate::target::{Target, UrlError};

/// Longer than a server that does something large stands still; a half-open connection is noticed by it.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Who comes within that after a failed attempt shares its failure: a thousand callers make one attempt, not a thousand in turn.
const FAILURE_IS_SHARED_FOR: Duration = Duration::from_millis(50);

/// The way to Redis.
pub(crate) struct Link {
    target: Target,
    secret: Option<SecretString>,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    connection: Option<Connection>,
    /// Which connection it is, so that nobody gives up the one that came after the one that broke.
    number: u64,
    failure: Option<(Instant, RedisError)>,
}

impl Link {
    pub(crate) fn new(url: &SecretString) -> Result<Self, UrlError> {
        let target = Target::parse(url.expose_secret())?;
        // The library takes the process's provider of cryptography and would panic where none was chosen yet.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self { target, secret: password(url.expose_secret()), current: Mutex::default() })
    }

    /// For what needs connections of its own.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Sends a command on the shared connection.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, HubError> {
        let answer = self.request(command).await.map_err(|error| self.unavailable(&error))?;
        self.read(answer)
    }

    pub(crate) fn read<T: FromRedisValue>(&self, answer: Value) -> Result<T, HubError> {
        redis::from_redis_value(answer).map_err(|error| self.unavailable(&error.into()))
    }

    pub(crate) async fn request(&self, command: &Cmd) -> RedisResult<Value> {
        let (number, mut connection) = self.connection().await?;
        let answer = connection.request(command).await;
        let Err(error) = &answer else { return answer };
        if !is_broken(error) {
            return answer;
        }
        self.give_up(number).await;
        // Whoever waited in vain has waited long enough.
        if error.is_timeout() {
            return answer;
        }
        let (number, mut connection) = self.connection().await?;
        let answer = connection.request(command).await;
        if answer.as_ref().is_err_and(is_broken) {
            self.give_up(number).await;
        }
        answer
    }

    /// What callers are told of an error: its text, without the password should the library or the server repeat it.
    pub(crate) fn unavailable(&self, error: &RedisError) -> HubError {
        let text = error.to_string();
        match &self.secret {
            Some(secret) => HubError(text.replace(secret.expose_secret(), "***").into()),
            None => HubError(text.into()),
        }
    }

    async fn connection(&self) -> RedisResult<(u64, Connection)> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &current.connection {
            return Ok((current.number, connection.clone()));
        }
        if let Some((at, error)) = &current.failure
            && at.elapsed() < FAILURE_IS_SHARED_FOR
        {
            return Err(error.clone());
        }
        match self.target.connect(ANSWERS_WITHIN).await {
            Ok(connection) => {
                current.failure = None;
                current.number += 1;
                current.connection = Some(connection.clone());
                Ok((current.number, connection))
            }
            Err(error) => {
                current.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn give_up(&self, number: u64) {
        let mut current = self.current.lock().await;
        if current.number == number {
            current.connection = None;
        }
    }
}

/// Whether another connection may do better: the connection is gone, or leads to a server that is no master any more.
pub(crate) fn is_broken(error: &RedisError) -> bool {
    let demoted =
        matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown));
    error.is_io_error() || error.is_unrecoverable_error() || demoted
}

/// The password of a URL as it stands there.
fn password(url: &str) -> Option<SecretString> {
    let (_, rest) = url.split_once("://")?;
    let (user, _) = rest.split('/').next()?.rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    (!password.is_empty()).then(|| password.to_owned().into())
}
