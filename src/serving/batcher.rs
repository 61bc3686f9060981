//! Joins questions that can go through a model together, and divides the answer among those who asked.

use super::{Answer, Question};

/// What kind of pass a question needs; questions of one kind on one model join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Encode,
    Decode,
    Reconstruct,
}

/// A question as rows for a pass. `draw` gives the codes of a sample.
pub(super) fn prepare(question: Question, draw: impl FnOnce(usize, u64, f32) -> Vec<f32>) -> (Pass, Vec<f32>) {
    match question {
        Question::Encode(rows) => (Pass::Encode, rows),
        Question::Decode(codes) => (Pass::Decode, codes),
        Question::Reconstruct(rows) => (Pass::Reconstruct, rows),
        Question::Sample { count, seed, temperature } => (Pass::Decode, draw(count, seed, temperature)),
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
