//! Joins questions that can go through a model together, and divides the answer among those who asked.

use super::{Answer, Question};

/// A pass that rows of several callers can share, because each row is answered by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Encode,
    Decode,
    DecodeSpread,
    Reconstruct,
    Predict,
    ScoreEstimate,
}

/// How wide the rows of a question are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Row,
    Code,
}

impl Question {
    /// The pass that it shares with others; `None` where what it draws must be its own.
    pub(super) fn pass(&self) -> Option<Pass> {
        match self {
            Self::Encode(_) => Some(Pass::Encode),
            Self::Decode(_) => Some(Pass::Decode),
            Self::DecodeSpread(_) => Some(Pass::DecodeSpread),
            Self::Reconstruct(_) => Some(Pass::Reconstruct),
            Self::Predict(_) => Some(Pass::Predict),
            Self::ScoreEstimate(_) => Some(Pass::ScoreEstimate),
            Self::DecodeDraw { .. } | Self::Sample(_) | Self::Impute { .. } | Self::ImputeDraws { .. } => None,
            Self::Score { .. } => None,
            // They are few.
            Self::Codes { .. } | Self::Slots | Self::InUnits { .. } => None,
        }
    }

    /// What it asks about, and how wide that is; `None` where it brings nothing.
    pub(super) fn values(&self) -> Option<(&[f32], Width)> {
        match self {
            Self::Encode(rows) | Self::Reconstruct(rows) | Self::Predict(rows) | Self::ScoreEstimate(rows) => {
                Some((rows, Width::Row))
            }
            Self::Impute { rows, .. } | Self::ImputeDraws { rows, .. } | Self::Score { rows, .. } => {
                Some((rows, Width::Row))
            }
            Self::Decode(codes) | Self::DecodeSpread(codes) | Self::DecodeDraw { codes, .. } => {
                Some((codes, Width::Code))
            }
            // Rows in other units have another width, and go through the model as one piece.
            Self::Sample(_) | Self::Codes { .. } | Self::Slots | Self::InUnits { .. } => None,
        }
    }
}

/// Takes the answer of the next `rows` rows off the front of a joint answer of `total` rows, which starts at row `from`.
pub(super) fn share(joint: &Answer, total: usize, from: usize, rows: usize) -> Answer {
    let cut = |values: &Vec<f32>| {
        let width = values.len() / total;
        values[from * width..(from + rows) * width].to_vec()
    };
    Answer { values: cut(&joint.values), beside: joint.beside.as_ref().map(cut) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_gets_its_own_rows() {
        let joint = Answer { values: (0..8_u8).map(f32::from).collect(), beside: Some(vec![10.0, 11.0, 12.0, 13.0]) };
        let second = share(&joint, 4, 1, 2);
        assert_eq!(second, Answer { values: vec![2.0, 3.0, 4.0, 5.0], beside: Some(vec![11.0, 12.0]) });
    }
}
