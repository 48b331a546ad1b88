//! Rows on their way into a store: read, held against a template, rendered once to find mistakes before anything is paid for, and packed
//! into blocks. Whoever takes rows in does it by this, and says itself where the blocks go.

mod given;
mod inflate;
mod merged;
mod pack;
mod quota;
mod recheck;
mod refused;
mod repack;
mod rows_of;
mod same_ids;
mod source;

pub use given::{GIVEN, Given, PREVIOUS_OUTCOME, PREVIOUS_RUN, SCHEDULED_AT};
pub use inflate::{Packing, Piece, unpacked};
pub use merged::{ChainError, MAX_CHAIN, Merged, Pages, chain};
pub use pack::{Packer, Taken, digest_text, read, read_and_pack_beside, read_rows};
pub use quota::{Quotas, UsedUp};
pub use recheck::{is_given, rechecked};
pub use refused::{BadRow, BadRows, Broken, MAX_RATIO, RATIO_FROM, Refused};
pub use repack::{Picked, channel, gather, repack};
pub use rows_of::{KEPT_IDS, RowsOf};
pub use same_ids::same_ids;
pub use source::{Asked, HandedOn, NoRows, ServedRows, served_rows};
