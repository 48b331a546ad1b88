//! `promptmill health`: whether the process of this machine lives, for whoever restarts it. A container without a shell has nothing else to ask with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use promptmill_runtime::install_tls;

use crate::exit::{Exit, Failure};

/// A process that lives answers within that.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(after_help = "Exit code 0: it lives, or is ready; 1: it does not, or is not.")]
pub(crate) struct HealthArgs {
    /// Where the process tells its metrics.
    #[arg(long, value_name = "ADDR", env = "PROMPTMILL_METRICS_LISTEN", default_value = "127.0.0.1:9464")]
    metrics_listen: SocketAddr,
    /// Ask whether it can serve or work now, and not only whether it lives.
    #[arg(long)]
    ready: bool,
}

pub(crate) async fn health(args: HealthArgs) -> Result<Exit, Failure> {
    install_tls();
    let url =
        format!("http://{}/{}", reachable(args.metrics_listen), if args.ready { "readyz" } else { "livez" });
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWERS_WITHIN).build();
    let client = client.map_err(|error| Failure::work("the HTTP client cannot be made", error))?;
    let answer = client.get(&url).send().await;
    let answer =
        answer.map_err(|error| Failure::work(format!("{url} gives no answer"), error.without_url()))?;
    if !answer.status().is_success() {
        return Err(Failure::Work(format!("{url} answers {}", answer.status()), None));
    }
    Ok(Exit::Success)
}

/// Where a listener on any address is reached from the same machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_any_address_is_asked_on_the_loopback() {
        for (listen, asked) in
            [("0.0.0.0:9", "127.0.0.1:9"), ("[::]:9", "[::1]:9"), ("10.0.0.1:9", "10.0.0.1:9")]
        {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
