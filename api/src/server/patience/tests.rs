use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
    let (near, mut far) = tokio::io::duplex(8);
    let mut near = Patience::new(near, Duration::from_secs(60));
    let slow = tokio::spawn(async move {
        let mut taken = [0; 1];
        for _ in 0..16 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            far.read_exact(&mut taken).await.unwrap();
        }
        far
    });
    near.write_all(&[0; 16]).await.unwrap();
    let _far = slow.await.unwrap();
    near.write_all(&[0; 8]).await.unwrap();
    let error = near.write_all(&[0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}
