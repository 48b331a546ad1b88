//! Which URLs a tenant may name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

use crate::address::is_public;

/// The longest URL that is taken, in bytes.
pub const MAX_URL_BYTES: usize = 2048;

/// What the operator allows beyond the public internet. The default allows HTTPS to port 443 of public addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlPolicy {
    /// Whether `http://` may be named as well.
    pub allow_http: bool,
    /// Ports that may be named; empty allows every port.
    pub ports: Vec<u16>,
    /// Addresses that may be called although they are not public ([`is_public`]).
    pub allowed_subnets: Vec<IpNet>,
}

impl Default for UrlPolicy {
    fn default() -> Self {
        Self { allow_http: false, ports: vec![443], allowed_subnets: vec![] }
    }
}

impl UrlPolicy {
    /// For a server that nobody but this machine can reach: loopback addresses too, plain HTTP and every port.
    pub fn with_loopback() -> Self {
        let v4 = Ipv4Net::new(Ipv4Addr::new(127, 0, 0, 0), 8).expect("8 is a prefix length");
        let v6 = Ipv6Net::new(Ipv6Addr::LOCALHOST, 128).expect("128 is a prefix length");
        Self { allow_http: true, ports: vec![], allowed_subnets: vec![v4.into(), v6.into()] }
    }

    /// Whether what receivers answer may be shown to whoever named them. Not where they may name addresses of the operator's own network: what stands
    /// there is for its own people.
    pub fn shows_answers(&self) -> bool {
        self.allowed_subnets.iter().all(|subnet| subnet.addr().is_loopback())
    }

    /// For a service with receivers in its own network: these subnets too, and plain HTTP and every port. Without subnets the default.
    pub fn with_subnets(allowed_subnets: Vec<IpNet>) -> Self {
        if allowed_subnets.is_empty() {
            return Self::default();
        }
        Self { allow_http: true, ports: vec![], allowed_subnets }
    }

    /// Whether a connection to the address may be opened.
    pub fn allows(&self, address: IpAddr) -> bool {
        is_public(address) || self.allowed_subnets.iter().any(|subnet| subnet.contains(&address))
    }
}

/// Why a URL is not taken. The words may be shown to whoever named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlRefused {
    /// It is longer than [`MAX_URL_BYTES`].
    #[error("the URL is longer than {MAX_URL_BYTES} bytes")]
    TooLong,
    /// It is not an absolute URL with a host.
    #[error("this is not an absolute URL")]
    Malformed,
    /// Neither `https` nor, where it is allowed, `http`.
    #[error("the URL must begin with https://")]
    Scheme,
    /// It holds a user name or a password.
    #[error("the URL must not hold a user name or a password")]
    Credentials,
    /// Its port may not be named.
    #[error("the URL names a port that is not allowed")]
    Port,
    /// Its host is an address that may not be called.
    #[error("the URL leads to an address that is not allowed")]
    Address,
}

/// Reads a URL that a tenant named. What its name resolves to is not known here; [`GuardedClient`](crate::GuardedClient) vets that at
/// every call.
///
/// # Errors
/// See [`UrlRefused`].
pub fn vet_url(text: &str, policy: &UrlPolicy) -> Result<Url, UrlRefused> {
    if text.len() > MAX_URL_BYTES {
        return Err(UrlRefused::TooLong);
    }
    // The parser would drop or trim them, and what was shown to a person were not what is called.
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(UrlRefused::Malformed);
    }
    let url = Url::parse(text).map_err(|_| UrlRefused::Malformed)?;
    match url.scheme() {
        "https" => {}
        "http" if policy.allow_http => {}
        _ => return Err(UrlRefused::Scheme),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlRefused::Credentials);
    }
    let port = url.port_or_known_default().ok_or(UrlRefused::Port)?;
    if port == 0 || !(policy.ports.is_empty() || policy.ports.contains(&port)) {
        return Err(UrlRefused::Port);
    }
    // After parsing: an IPv4 address may be written in many ways, as one number or in octal for example.
    let allowed = match url.host().ok_or(UrlRefused::Malformed)? {
        Host::Ipv4(address) => policy.allows(address.into()),
        Host::Ipv6(address) => policy.allows(address.into()),
        Host::Domain(name) if is_localhost(name) => policy.allows(Ipv4Addr::LOCALHOST.into()),
        Host::Domain(_) => true,
    };
    if allowed { Ok(url) } else { Err(UrlRefused::Address) }
}

/// Names that always mean this machine (RFC 6761, 6.3).
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(url: &str, policy: &UrlPolicy) -> Result<(), UrlRefused> {
        vet_url(url, policy).map(|_| ())
    }

    #[test]
    fn by_default_only_https_on_its_port_to_public_addresses_is_taken() {
        let policy = UrlPolicy::default();
        for good in [
            "https://example.com/hook?a=1",
            "https://example.com:443",
            "https://8.8.8.8/",
            "https://[2606:4700::1]/",
        ] {
            assert_eq!(verdict(good, &policy), Ok(()), "{good}");
        }
        let long = format!("https://example.com/{}", "a".repeat(MAX_URL_BYTES));
        for (bad, expected) in [
            (long.as_str(), UrlRefused::TooLong),
            ("", UrlRefused::Malformed),
            ("example.com", UrlRefused::Malformed),
            ("/hook", UrlRefused::Malformed),
            ("https://", UrlRefused::Malformed),
            ("https://exa\tmple.com", UrlRefused::Malformed),
            (" https://example.com", UrlRefused::Malformed),
            ("https://example.com/a b", UrlRefused::Malformed),
            ("https://exa mple.com", UrlRefused::Malformed),
            ("https://256.256.256.256", UrlRefused::Malformed),
            ("https://[fe80::1%25eth0]/", UrlRefused::Malformed),
            ("http://example.com", UrlRefused::Scheme),
            ("ftp://example.com", UrlRefused::Scheme),
            ("file:///etc/passwd", UrlRefused::Scheme),
            ("javascript:alert(1)", UrlRefused::Scheme),
            ("https://user@example.com", UrlRefused::Credentials),
            ("https://:secret@example.com", UrlRefused::Credentials),
            ("https://example.com:80", UrlRefused::Port),
            ("https://example.com:8443", UrlRefused::Port),
            ("https://example.com:0", UrlRefused::Port),
        ] {
            assert_eq!(verdict(bad, &policy), Err(expected), "{bad}");
        }
    }

    #[test]
    fn an_address_is_known_however_it_is_written() {
        let policy = UrlPolicy { allow_http: true, ports: vec![], ..UrlPolicy::default() };
        for bad in [
            "http://127.0.0.1",
            "http://127.0.0.1.",
            "http://127.1",
            "http://0x7f.1",
            "http://0x7f000001",
            "http://2130706433",
            "http://017700000001",
            "http://0177.0.0.1",
            "http://１２７.０.０.１",
            "http://127。0。0。1",
            "http://0",
            "http://[::1]",
            "http://[::ffff:127.0.0.1]",
            "http://[0:0:0:0:0:ffff:7f00:1]",
            "http://[64:ff9b::7f00:1]",
            "http://169.254.169.254/latest/meta-data/",
            "http://[fd00:ec2::254]/",
            "http://localhost",
            "http://LOCALHOST.",
            "http://a.localhost:8080",
            "http://ⓛocalhost",
            "http://loc%61lhost",
            "http:127.0.0.1",
            "http:\\\\127.0.0.1",
        ] {
            assert_eq!(verdict(bad, &policy), Err(UrlRefused::Address), "{bad}");
        }
    }

    #[test]
    fn an_allowed_subnet_opens_its_addresses_and_no_others() {
        let loopback = UrlPolicy::with_loopback();
        for good in
            ["http://127.0.0.1:9", "http://[::1]:9/a", "http://localhost:8080", "https://example.com:8443"]
        {
            assert_eq!(verdict(good, &loopback), Ok(()), "{good}");
        }
        for bad in ["http://10.0.0.1", "http://[::ffff:127.0.0.1]", "http://169.254.169.254"] {
            assert_eq!(verdict(bad, &loopback), Err(UrlRefused::Address), "{bad}");
        }
        let one = UrlPolicy { allowed_subnets: vec!["10.1.0.0/16".parse().unwrap()], ..UrlPolicy::default() };
        assert_eq!(verdict("https://10.1.255.255", &one), Ok(()));
        assert_eq!(verdict("https://10.2.0.0", &one), Err(UrlRefused::Address));
        assert_eq!(verdict("https://localhost", &one), Err(UrlRefused::Address));
    }
}
