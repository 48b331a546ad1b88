//! The service as a client sees it, on either store: one process over a folder, or a fleet.

use crate::fleet::{Fleet, Size};
use crate::server::{Http, Server};
use crate::support::Desk;

/// What stands behind the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `promptmill serve` over SQLite.
    Embedded,
    /// Two processes of each role over MongoDB and Redis.
    Fleet,
}

/// A service that runs.
pub(crate) enum Stand {
    Embedded(Server),
    Fleet(Box<Fleet>),
}

impl Stand {
    /// Starts one with an owner's key.
    pub(crate) fn start(kind: Kind, desk: &mut Desk) -> Self {
        match kind {
            Kind::Embedded => Self::Embedded(Server::first(desk)),
            Kind::Fleet => Self::Fleet(Box::new(Fleet::new(desk, Size::TWO))),
        }
    }

    /// The owner's key.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Embedded(server) => &server.key,
            Self::Fleet(fleet) => &fleet.key,
        }
    }

    /// Where the API is.
    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Embedded(server) => &server.url,
            Self::Fleet(fleet) => &fleet.apis[0].url,
        }
    }

    pub(crate) fn client(&self) -> Http {
        Http::new(self.url(), self.key())
    }

    /// A client of another api of the same fleet, where there is one: what one api did holds at the others as well.
    pub(crate) fn elsewhere(&self) -> Http {
        match self {
            Self::Embedded(server) => server.client(),
            Self::Fleet(fleet) => fleet.client_of(1),
        }
    }

    /// Where the metrics of every process are.
    pub(crate) fn metrics_urls(&mut self) -> Vec<String> {
        match self {
            Self::Embedded(server) => vec![server.metrics_url.clone()],
            Self::Fleet(fleet) => fleet.programs().map(|program| program.metrics_url.clone()).collect(),
        }
    }

    /// Stops it in order, and answers all that was logged.
    #[track_caller]
    pub(crate) fn stop(self) -> String {
        match self {
            Self::Embedded(server) => {
                let (code, log) = server.stop();
                assert_eq!(code, Some(0), "{log}");
                log
            }
            Self::Fleet(mut fleet) => fleet.stop(),
        }
    }
}

/// Each of these journeys as two tests, `embedded::NAME` and `fleet::NAME`.
macro_rules! on_both_stands {
    ($($journey:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $journey() {
                super::$journey(crate::stand::Kind::Embedded).await;
            })*
        }

        mod fleet {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $journey() {
                super::$journey(crate::stand::Kind::Fleet).await;
            })*
        }
    };
}
pub(crate) use on_both_stands;
