//! What hubs tell each other: the signals of the port, and what concerns the places of a lane.

use promptmill_domain::{BatchId, LaneId};
use promptmill_ports::Signal;

const BATCH_CHANGED: u8 = 1;
const CHUNK_DONE: u8 = 2;
const LANE_PAUSED: u8 = 4;
const PLACES_FREE: u8 = 5;
const PLACES_WANTED: u8 = 6;
const LIMIT_CHANGED: u8 = 7;
const BATCH_ENDED: u8 = 8;
const BATCH_QUEUED: u8 = 9;
const WORK_QUEUED: u8 = 10;

/// One hub among the others, from its start to its end.
pub(crate) type HubId = [u8; 8];

/// One message: a byte that tells its kind, then its fields, the lane last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    Signal(Signal),
    /// Somebody has fewer places of the lane than its share, and there are free ones.
    PlacesFree(HubId, LaneId),
    /// Somebody has fewer places of the lane than its share, and others more.
    PlacesWanted(HubId, LaneId),
    /// The limit of the lane is another.
    LimitChanged(HubId, LaneId),
}

impl Message {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Signal(Signal::BatchChanged(batch)) => join(BATCH_CHANGED, batch.as_bytes(), ""),
            Self::Signal(Signal::BatchQueued(batch)) => join(BATCH_QUEUED, batch.as_bytes(), ""),
            Self::Signal(Signal::BatchEnded(batch)) => join(BATCH_ENDED, batch.as_bytes(), ""),
            Self::Signal(Signal::WorkQueued) => join(WORK_QUEUED, &[], ""),
            Self::Signal(Signal::ChunkDone(batch)) => join(CHUNK_DONE, batch.as_bytes(), ""),
            Self::Signal(Signal::LanePaused { lane, until_ms }) => {
                join(LANE_PAUSED, &until_ms.to_be_bytes(), lane.as_str())
            }
            Self::PlacesFree(hub, lane) => join(PLACES_FREE, hub, lane.as_str()),
            Self::PlacesWanted(hub, lane) => join(PLACES_WANTED, hub, lane.as_str()),
            Self::LimitChanged(hub, lane) => join(LIMIT_CHANGED, hub, lane.as_str()),
        }
    }

    /// Nothing, where the bytes are none that this version writes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        let batch = || rest.try_into().ok().map(BatchId::from_bytes);
        match kind {
            BATCH_CHANGED => Some(Self::Signal(Signal::BatchChanged(batch()?))),
            BATCH_QUEUED => Some(Self::Signal(Signal::BatchQueued(batch()?))),
            BATCH_ENDED => Some(Self::Signal(Signal::BatchEnded(batch()?))),
            WORK_QUEUED => Some(Self::Signal(Signal::WorkQueued)),
            CHUNK_DONE => Some(Self::Signal(Signal::ChunkDone(batch()?))),
            LANE_PAUSED | PLACES_FREE | PLACES_WANTED | LIMIT_CHANGED => {
                let (&eight, lane) = rest.split_first_chunk::<8>()?;
                let lane = LaneId::from_stored(String::from_utf8(lane.to_vec()).ok()?);
                Some(match kind {
                    LANE_PAUSED => {
                        Self::Signal(Signal::LanePaused { lane, until_ms: u64::from_be_bytes(eight) })
                    }
                    PLACES_FREE => Self::PlacesFree(eight, lane),
                    PLACES_WANTED => Self::PlacesWanted(eight, lane),
                    _ => Self::LimitChanged(eight, lane),
                })
            }
            _ => None,
        }
    }
}

fn join(kind: u8, fixed: &[u8], text: &str) -> Vec<u8> {
    [&[kind], fixed, text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_its_bytes() {
        let batch = BatchId::from_bytes([9; 16]);
        let lane = LaneId::new("openai", "schlüssel");
        let hub = [3; 8];
        for message in [
            Message::Signal(Signal::BatchChanged(batch)),
            Message::Signal(Signal::BatchQueued(batch)),
            Message::Signal(Signal::WorkQueued),
            Message::Signal(Signal::BatchEnded(batch)),
            Message::Signal(Signal::ChunkDone(batch)),
            Message::Signal(Signal::LanePaused { lane: lane.clone(), until_ms: u64::MAX }),
            Message::PlacesFree(hub, lane.clone()),
            Message::PlacesWanted(hub, lane.clone()),
            Message::LimitChanged(hub, lane),
        ] {
            assert_eq!(Message::from_bytes(&message.to_bytes()), Some(message));
        }
    }

    #[test]
    fn strange_bytes_are_no_message() {
        for bytes in [
            &[][..],
            &[0],
            &[99, 1],
            &[BATCH_CHANGED, 1, 2],
            &[LANE_PAUSED, 1],
            &[PLACES_FREE, 0, 0, 0, 0, 0, 0, 0, 0, 0xff],
        ] {
            assert_eq!(Message::from_bytes(bytes), None, "{bytes:?}");
        }
    }
}
