//! Mail to people, over the SMTP server of the operator.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::Error as SmtpError;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use tokio::time::timeout;
use url::Url;

/// How long the server may take for a mail, and for a connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest address: RFC 5321 allows a path of 256 octets with its brackets.
const MAX_ADDRESS: usize = 254;

/// Whom mail can be sent to: one address of RFC 5321, `name@host`, in ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(lettre::Address);

impl Address {
    /// The address of a text; `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        // A quoted name may hold what other programs take for the end of an address.
        let is_plain =
            text.len() <= MAX_ADDRESS && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        text.parse().ok().filter(|_| is_plain).map(Self)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why mail cannot be sent, or was not. Never shows credentials.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The server's URL is none.
    #[error(
        "the URL of the mail server must be smtp://HOST:PORT, smtp://USER:PASSWORD@HOST:PORT?tls=required or smtps://USER:PASSWORD@HOST:PORT"
    )]
    InvalidUrl,
    /// It would be sent with a password that others can read.
    #[error("the URL of the mail server has a password and no encryption; use smtps:// or ?tls=required")]
    PasswordInClear,
    /// The address it is sent from is none.
    #[error("the sender of mail must be an address, as Promptmill <promptmill@example.com>")]
    InvalidSender,
    /// The server does not want it, and will not.
    #[error("the mail server refused it")]
    Refused,
    /// The server was not reached, or wants it later.
    #[error("the mail server did not take it")]
    NotTaken(#[source] Option<Box<dyn std::error::Error + Send + Sync>>),
}

/// Sends mail. Cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailer").field("from", &self.from).finish_non_exhaustive()
    }
}

impl Mailer {
    /// One over the server of this URL: `smtps://` for TLS from the beginning, `smtp://` with `?tls=required` for STARTTLS, `smtp://` alone for a server on
    /// the same machine. `from` is whom its mail is from, an address with or without a name.
    ///
    /// # Errors
    /// `InvalidUrl`, `InvalidSender`; `PasswordInClear` where the connection need not be encrypted and does not stay on the machine.
    pub fn new(url: &str, from: &str) -> Result<Self, MailError> {
        let parsed = Url::parse(url).map_err(|_| MailError::InvalidUrl)?;
        let is_encrypted = parsed.scheme() == "smtps"
            || parsed.query_pairs().any(|(name, value)| name == "tls" && value == "required");
        if parsed.password().is_some() && !is_encrypted && !is_loopback(&parsed) {
            return Err(MailError::PasswordInClear);
        }
        let from = from.parse().map_err(|_| MailError::InvalidSender)?;
        let builder =
            AsyncSmtpTransport::<Tokio1Executor>::from_url(url).map_err(|_| MailError::InvalidUrl)?;
        Ok(Self { transport: builder.timeout(Some(PATIENCE)).build(), from })
    }

    /// Sends a text to one address; it is taken by the server when this is over. `id` is the same when it is sent again.
    ///
    /// # Errors
    /// `Refused` where it does not help to try again, `NotTaken` where it may.
    pub async fn send(&self, id: &str, to: &Address, subject: &str, text: String) -> Result<(), MailError> {
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to.0.clone()))
            .subject(subject)
            .message_id(Some(format!("<{id}@{}>", self.from.email.domain())))
            .header(ContentType::TEXT_PLAIN)
            .body(text)
            .map_err(|_| MailError::Refused)?;
        // The library's own limit ends with the connection.
        match timeout(PATIENCE, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.is_permanent() && !is_about_us(&error) => Err(MailError::Refused),
            Ok(Err(error)) => Err(MailError::NotTaken(Some(error.into()))),
            Err(_) => Err(MailError::NotTaken(None)),
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    let ip = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
    ip.is_some_and(|ip| ip.is_loopback())
}

/// Whether the server does not let us in, which its operator may change: RFC 4954, replies 530 to 538.
fn is_about_us(error: &SmtpError) -> bool {
    error.status().is_some_and(|code| (530..=538).contains(&u16::from(code)))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::*;

    /// A server that says this to the recipient, and the address it is at; it tells the texts that it took.
    fn server(to_recipient: &'static str) -> (String, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let (took, taken) = mpsc::channel();
        std::thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let say = |stream: &mut BufReader<std::net::TcpStream>, words: &str| {
                stream.get_mut().write_all(format!("{words}\r\n").as_bytes()).unwrap();
            };
            say(&mut stream, "220 here");
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                match line.split([' ', '\r']).next() {
                    Some("RCPT") => say(&mut stream, to_recipient),
                    Some("DATA") => {
                        say(&mut stream, "354 go on");
                        let mut text = String::new();
                        while !text.ends_with("\r\n.\r\n") {
                            stream.read_line(&mut text).unwrap();
                        }
                        took.send(text).unwrap();
                        say(&mut stream, "250 taken");
                    }
                    Some("QUIT") => return,
                    _ => say(&mut stream, "250 fine"),
                }
            }
        });
        (url, taken)
    }

    #[tokio::test]
    async fn a_text_arrives_as_it_is() {
        let (url, taken) = server("250 fine");
        let mailer = Mailer::new(&url, "Promptmill <mill@example.com>").unwrap();
        let to = Address::parse("ops@example.com").unwrap();
        mailer.send("dlv_1", &to, "Grüße", "one\n.two\n".to_owned()).await.unwrap();
        let text = taken.recv().unwrap();
        for part in [
            "From: Promptmill <mill@example.com>",
            "To: ops@example.com",
            "Message-ID: <dlv_1@example.com>",
            "\r\none\r\n..two\r\n",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[tokio::test]
    async fn what_is_refused_for_good_is_told_from_what_may_be_tried_again() {
        let to = Address::parse("ops@example.com").unwrap();
        let send = async |url: &str| {
            Mailer::new(url, "mill@example.com").unwrap().send("dlv_1", &to, "a", "b".to_owned()).await
        };
        assert!(matches!(send(&server("550 unknown").0).await, Err(MailError::Refused)));
        assert!(matches!(send(&server("451 later").0).await, Err(MailError::NotTaken(_))));
        assert!(matches!(send(&server("535 who are you").0).await, Err(MailError::NotTaken(_))));
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(send(&format!("smtp://{nobody}")).await, Err(MailError::NotTaken(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let mailer =
            Mailer::new(&format!("smtp://{}", silent.local_addr().unwrap()), "mill@example.com").unwrap();
        let to = Address::parse("ops@example.com").unwrap();
        assert!(matches!(
            mailer.send("dlv_1", &to, "a", "b".to_owned()).await,
            Err(MailError::NotTaken(None))
        ));
    }

    #[test]
    fn what_is_no_address_no_url_and_no_sender_is_refused() {
        let long = format!("a@{}.example", "a".repeat(250));
        for text in [
            "",
            "a",
            "a@",
            "@b.example",
            "a b@c.example",
            "a@b.example\r\nBcc: c@d.example",
            "\"a,b\"@c.example",
            "ä@b.example",
            &long,
        ] {
            assert_eq!(Address::parse(text), None, "{text:?}");
        }
        assert_eq!(Address::parse("a.b+c@d.example").unwrap().to_string(), "a.b+c@d.example");
        for url in ["", "http://a.example", "smtp:", "localhost:25"] {
            assert!(matches!(Mailer::new(url, "a@b.example"), Err(MailError::InvalidUrl)), "{url}");
        }
        for url in ["smtp://u:p@a.example", "smtp://u:p@a.example?tls=opportunistic"] {
            assert!(matches!(Mailer::new(url, "a@b.example"), Err(MailError::PasswordInClear)), "{url}");
        }
        for url in [
            "smtps://u:p@a.example",
            "smtp://u:p@a.example?tls=required",
            "smtp://u:p@127.0.0.1:25",
            "smtp://a.example",
        ] {
            assert!(Mailer::new(url, "a@b.example").is_ok(), "{url}");
        }
        assert!(matches!(Mailer::new("smtp://a.example", "nobody"), Err(MailError::InvalidSender)));
    }
}
