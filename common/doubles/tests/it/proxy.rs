//! The TCP proxy between an echo and a client.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use promptmill_doubles::{FaultProxy, Toxic};

/// An upstream that sends back what it gets, one thread a connection.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                let _ = io::copy(&mut &stream, &mut writer);
            });
        }
    });
    addr
}

fn connect(proxy: &FaultProxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Fails when anything comes within a moment.
#[track_caller]
fn check_silent(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let silent = stream.read(&mut [0]).unwrap_err().kind();
    assert!(matches!(silent, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silent:?}");
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
}

fn say(stream: &mut TcpStream, text: &str) -> io::Result<String> {
    stream.write_all(text.as_bytes())?;
    let mut echoed = vec![0; text.len()];
    stream.read_exact(&mut echoed)?;
    Ok(String::from_utf8(echoed).unwrap())
}

#[test]
fn everything_passes_and_an_end_on_one_side_is_passed_on() {
    let proxy = FaultProxy::start(echo()).unwrap();
    let mut stream = connect(&proxy);
    let large = "x".repeat(300_000);
    let mut writer = stream.try_clone().unwrap();
    let sent = large.clone();
    let sending = std::thread::spawn(move || {
        writer.write_all(sent.as_bytes()).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut echoed = String::new();
    stream.read_to_string(&mut echoed).unwrap();
    sending.join().unwrap();
    assert!(echoed == large);
}

#[test]
fn refused_connections_are_accepted_again_on_the_same_port() {
    let proxy = FaultProxy::start(echo()).unwrap();
    let mut open = connect(&proxy);
    assert_eq!(say(&mut open, "a").unwrap(), "a");
    proxy.set(Toxic::Refuse);
    assert_eq!(TcpStream::connect(proxy.addr()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(open.read(&mut [0]).unwrap(), 0);
    proxy.set(Toxic::None);
    assert_eq!(say(&mut connect(&proxy), "b").unwrap(), "b");
}

#[test]
fn open_and_new_connections_are_reset() {
    let proxy = FaultProxy::start(echo()).unwrap();
    let mut open = connect(&proxy);
    assert_eq!(say(&mut open, "a").unwrap(), "a");
    proxy.set(Toxic::ResetPeer);
    assert_eq!(open.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // The reset may overtake the client's own setting up of the connection.
    let reset = TcpStream::connect(proxy.addr()).and_then(|mut stream| stream.read(&mut [0]));
    assert_eq!(reset.unwrap_err().kind(), ErrorKind::ConnectionReset);
    proxy.set(Toxic::None);
    assert_eq!(say(&mut connect(&proxy), "b").unwrap(), "b");
}

#[test]
fn what_a_black_hole_holds_back_passes_when_it_is_gone() {
    let proxy = FaultProxy::start(echo()).unwrap();
    let mut open = connect(&proxy);
    assert_eq!(say(&mut open, "a").unwrap(), "a");
    proxy.set(Toxic::BlackHole);
    let mut late = connect(&proxy);
    for stream in [&mut open, &mut late] {
        stream.write_all(b"b").unwrap();
        check_silent(stream);
    }
    proxy.set(Toxic::None);
    for stream in [&mut open, &mut late] {
        let mut echoed = [0];
        stream.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"b");
    }
}

#[test]
fn through_a_mute_proxy_words_arrive_and_answers_come_when_it_is_over() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = FaultProxy::start(listener.local_addr().unwrap()).unwrap();
    let mut client = connect(&proxy);
    let (mut server, _) = listener.accept().unwrap();
    proxy.set(Toxic::Mute);
    client.write_all(b"a").unwrap();
    let mut heard = [0];
    server.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"a");
    server.write_all(b"b").unwrap();
    check_silent(&mut client);
    proxy.set(Toxic::None);
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"b");
}

#[test]
fn latency_delays_and_loses_nothing() {
    let proxy = FaultProxy::start(echo()).unwrap();
    proxy.set(Toxic::Latency(Duration::from_millis(2)));
    let mut stream = connect(&proxy);
    for text in ["one", "two", "three"] {
        assert_eq!(say(&mut stream, text).unwrap(), text);
    }
}

#[test]
fn a_missing_upstream_resets_the_client() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = FaultProxy::start(gone).unwrap();
    let mut stream = connect(&proxy);
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}
