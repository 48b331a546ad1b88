//! Reads `OLLAMA_HOST` the way Ollama's own programs do.

use std::net::Ipv6Addr;

use url::Url;

use crate::endpoint::{InvalidConfig, parse_base_url};

const DEFAULT_PORT: u16 = 11434;

/// The base URL that `OLLAMA_HOST` means; a path prefix is kept.
///
/// | text | URL |
/// |---|---|
/// | empty | `http://127.0.0.1:11434` |
/// | `host`, `host:port`, `:port`, `::1` | `http`, port 11434 where none or no valid one is given |
/// | `http://host` / `https://host` | port 80 / 443 |
/// | `ollama.com` | `https://ollama.com` |
///
/// Blanks and quotes around it are dropped. A missing host and the addresses that mean "every interface" to a server
/// (`0.0.0.0`, `::`) become `127.0.0.1`.
///
/// # Errors
/// What is left is no http or https URL, or it holds a user, a password, a query or a fragment.
pub fn parse_ollama_host(text: &str) -> Result<Url, InvalidConfig> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '"' || c == '\'');
    if let Some((scheme, _)) = text.split_once("://") {
        let default_port = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
        return to_client_address(text, &text[scheme.len() + 3..], scheme, default_port);
    }
    if text == "ollama.com" || text.starts_with("ollama.com/") {
        return to_client_address(text, text, "https", 443);
    }
    to_client_address(text, text, "http", DEFAULT_PORT)
}

fn to_client_address(whole: &str, rest: &str, scheme: &str, default_port: u16) -> Result<Url, InvalidConfig> {
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(parse_base_url(whole).err().unwrap_or_else(|| InvalidConfig::BaseUrl(String::new())));
    }
    let (host, port) = split_port(authority);
    let port = match port {
        None => default_port,
        Some(digits) => digits.parse().unwrap_or(default_port),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let host = match bare {
        "" | "0.0.0.0" | "::" => "127.0.0.1".to_owned(),
        bare if bare.parse::<Ipv6Addr>().is_ok() => format!("[{bare}]"),
        _ => host.to_owned(),
    };
    parse_base_url(&format!("{scheme}://{host}:{port}{path}"))
}

/// Splits at the colon before the port; an IPv6 address without brackets has no port.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    if authority.parse::<Ipv6Addr>().is_ok() {
        return (authority, None);
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_host_gives_its_url() {
        let cases = [
            ("", "http://127.0.0.1:11434/"),
            ("1.2.3.4", "http://1.2.3.4:11434/"),
            (":1234", "http://127.0.0.1:1234/"),
            ("1.2.3.4:1234", "http://1.2.3.4:1234/"),
            ("example.com", "http://example.com:11434/"),
            ("example.com:1234", "http://example.com:1234/"),
            (":66000", "http://127.0.0.1:11434/"),
            ("h:-1", "http://h:11434/"),
            ("[::1]", "http://[::1]:11434/"),
            ("::1", "http://[::1]:11434/"),
            ("[::1]:1337", "http://[::1]:1337/"),
            ("[::]", "http://127.0.0.1:11434/"),
            ("0.0.0.0", "http://127.0.0.1:11434/"),
            (" \" 1.2.3.4 \" ", "http://1.2.3.4:11434/"),
            ("'1.2.3.4'", "http://1.2.3.4:11434/"),
            ("http://1.2.3.4", "http://1.2.3.4/"),
            ("http://1.2.3.4:1234", "http://1.2.3.4:1234/"),
            ("https://1.2.3.4", "https://1.2.3.4/"),
            ("https://example.com/ollama", "https://example.com/ollama"),
            ("example.com/ollama/", "http://example.com:11434/ollama/"),
            ("ollama.com", "https://ollama.com/"),
            ("https://ollama.com", "https://ollama.com/"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_ollama_host(text).map(String::from).as_deref(), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused_without_showing_a_password() {
        for text in ["ftp://h", "http://u:hunter2@h", "u:hunter2@h", "a b", "h?x=1"] {
            let error = parse_ollama_host(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
