//! Load balancers before the service: whose connections are many clients' at once, and whom to believe when it says who a request is from.

use std::net::IpAddr;

use axum::http::HeaderMap;
use ipnet::IpNet;

/// Where a load balancer writes the address that a request came to it from, behind what was there already.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Subnets of the load balancers that the operator named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Those in these subnets.
    pub const fn new(subnets: Vec<IpNet>) -> Self {
        Self(subnets)
    }

    /// Whether it is one of them.
    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|subnet| subnet.contains(&address))
    }

    /// Whom a request is from that came from `peer`: from the last address behind which stand load balancers alone. What a client wrote there itself
    /// stands before that and is not looked at.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.contain(peer) {
            return peer;
        }
        let lines: Vec<_> =
            headers.get_all(FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok()).collect();
        let mut client = peer;
        for address in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            let Ok(address) = address.trim().parse() else { break };
            client = address;
            if !self.contain(address) {
                break;
            }
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_from_the_last_address_that_no_load_balancer_has() {
        let proxies = Proxies::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let none: &[&str] = &[];
        let cases = [
            ("192.0.2.1", &["198.51.100.7"][..], "192.0.2.1"),
            ("10.0.0.1", none, "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("fd00::1", &["2001:db8::7"], "2001:db8::7"),
            // What the client wrote itself.
            ("10.0.0.1", &["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["203.0.113.9", "198.51.100.7"], "198.51.100.7"),
            // Two load balancers, one behind the other.
            ("10.0.0.1", &["203.0.113.9, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7", " 10.0.0.2 "], "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.3,10.0.0.2"], "10.0.0.3"),
        ];
        for (peer, lines, client) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, line.parse().unwrap());
            }
            assert_eq!(
                proxies.client(peer.parse().unwrap(), &headers).to_string(),
                client,
                "{peer} {lines:?}"
            );
        }
    }
}
