//! Rows on their way into a store: read, held against a template, rendered once to find mistakes before anything is paid for, and packed
//! into blocks. Whoever takes rows in does it by this, and says itself where the blocks go.

mod given;
mod pack;
mod quota;
mod recheck;
mod refused;
mod repack;
mod rows_of;

pub use given::{Given, PREVIOUS_RUN, SCHEDULED_AT};
pub use pack::{Packer, Taken, read, read_and_pack_beside, read_rows};
pub use quota::{Quotas, UsedUp};
pub use recheck::rechecked;
pub use refused::{BadRow, BadRows, Broken, MAX_RATIO, RATIO_FROM, Refused};
pub use repack::{Picked, channel, gather, repack};
pub use rows_of::{KEPT_IDS, RowsOf};
