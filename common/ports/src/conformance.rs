//! What every backend must pass, as functions over the ports and a macro that makes a test of each.

pub mod hub;
pub mod records;
pub mod store;
pub mod transfer;

/// Makes a `#[tokio::test]` of each of these cases of a suite, with what the expression makes.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ($suite:ident, $make:expr; $($case:ident)*) => {$(
        #[tokio::test]
        async fn $case() {
            let fresh = $make;
            $crate::conformance::$suite::$case(&*fresh).await;
        }
    )*};
}
