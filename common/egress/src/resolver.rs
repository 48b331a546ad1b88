//! Names to addresses, and the guard between them and the connection.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use crate::policy::UrlPolicy;

/// Looks names up. A role of its own so that tests can answer in a resolver's place.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// Every address of the host.
    ///
    /// # Errors
    /// When the name has none, or nobody answers.
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// Lookups of the system's resolver under way at the same time.
const LOOKUPS: usize = 32;

/// The system's resolver. Each lookup holds a thread until the system answers, even one that nobody waits for any more, so they are
/// bounded: names that are never answered cannot use up the threads of the process.
#[derive(Debug, Clone)]
pub struct SystemResolver {
    lookups: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS)) }
    }
}

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let lookup = self.lookups.clone().acquire_owned().await.map_err(io::Error::other)?;
        let host = host.to_owned();
        let answer = tokio::task::spawn_blocking(move || {
            let _held_until_answered = lookup;
            (host.as_str(), 0).to_socket_addrs()
        });
        Ok(answer.await.map_err(io::Error::other)??.map(|address| address.ip()).collect())
    }
}

/// An answer named an address that may not be called.
#[derive(Debug, thiserror::Error)]
#[error("an address that is not allowed")]
pub(crate) struct AddressRefused;

/// Resolves a name once for a connection, and hands its addresses on only when all of them may be called: one that may not be beside
/// others that may is how a name is made to lead inside.
pub(crate) struct GuardedResolver {
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) policy: UrlPolicy,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (resolver, policy) = (self.resolver.clone(), self.policy.clone());
        Box::pin(async move {
            let addresses = resolver.resolve(name.as_str()).await?;
            if addresses.is_empty() {
                return Err(io::Error::from(io::ErrorKind::NotFound).into());
            }
            if !addresses.iter().all(|address| policy.allows(*address)) {
                return Err(AddressRefused.into());
            }
            // Port 0 is replaced by the one of the URL.
            let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}
