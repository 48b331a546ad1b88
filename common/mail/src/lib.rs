//! Mail to people, over the SMTP server of the operator.

use std::fmt;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};

/// How long the server may take for a step.
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
    /// The address it is sent from is none.
    #[error("the sender of mail must be an address, as Promptmill <promptmill@example.com>")]
    InvalidSender,
    /// The server does not want it, and will not.
    #[error("the mail server refused it")]
    Refused,
    /// The server was not reached, or wants it later.
    #[error("the mail server did not take it")]
    NotTaken,
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
    /// `InvalidUrl`, `InvalidSender`.
    pub fn new(url: &str, from: &str) -> Result<Self, MailError> {
        let from = from.parse().map_err(|_| MailError::InvalidSender)?;
        let builder =
            AsyncSmtpTransport::<Tokio1Executor>::from_url(url).map_err(|_| MailError::InvalidUrl)?;
        Ok(Self { transport: builder.timeout(Some(PATIENCE)).build(), from })
    }

    /// Sends a text to one address; it is taken by the server when this is over.
    ///
    /// # Errors
    /// `Refused` where it does not help to try again, `NotTaken` where it may.
    pub async fn send(&self, to: &Address, subject: &str, text: String) -> Result<(), MailError> {
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to.0.clone()))
            .subject(subject)
            .header(ContentType::TEXT_PLAIN)
            .body(text)
            .map_err(|_| MailError::Refused)?;
        match self.transport.send(message).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_permanent() => Err(MailError::Refused),
            Err(_) => Err(MailError::NotTaken),
        }
    }
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
        mailer.send(&to, "Grüße", "one\n.two\n".to_owned()).await.unwrap();
        let text = taken.recv().unwrap();
        for part in ["From: Promptmill <mill@example.com>", "To: ops@example.com", "\r\none\r\n..two\r\n"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[tokio::test]
    async fn what_is_refused_for_good_is_told_from_what_may_be_tried_again() {
        let to = Address::parse("ops@example.com").unwrap();
        let send = async |url: &str| {
            Mailer::new(url, "mill@example.com").unwrap().send(&to, "a", "b".to_owned()).await
        };
        assert!(matches!(send(&server("550 unknown").0).await, Err(MailError::Refused)));
        assert!(matches!(send(&server("451 later").0).await, Err(MailError::NotTaken)));
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(send(&format!("smtp://{nobody}")).await, Err(MailError::NotTaken)));
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
        assert!(matches!(Mailer::new("smtp://a.example", "nobody"), Err(MailError::InvalidSender)));
    }
}
