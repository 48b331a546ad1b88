//! Signals of the operating system that ask the process to stop.

use tokio_util::sync::CancellationToken;

/// Two tokens: the first is cancelled by the first Ctrl-C or SIGTERM ("stop cleanly"), the second by the second one ("stop now").
///
/// # Errors
/// When the process may not install signal handlers.
pub fn shutdown_signals() -> std::io::Result<(CancellationToken, CancellationToken)> {
    use tokio::signal::unix::{SignalKind, signal};

    let (clean, now) = (CancellationToken::new(), CancellationToken::new());
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let tokens = (clean.clone(), now.clone());
    tokio::spawn(async move {
        for token in [tokens.0, tokens.1] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            token.cancel();
        }
    });
    Ok((clean, now))
}
