//! Named tensors and one text header in a safetensors file: the form of models and of checkpoints.
//!
//! The header is the value of the metadata key `latente`. One key only, so that the same content gives the same bytes.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::domain::limits::MODEL_HEADER_BYTES;
use crate::models::parameters::Named;

const KEY: &str = "latente";

/// A file in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// JSON that says what the tensors are.
    pub header: String,
    /// All 32-bit floats.
    pub tensors: Vec<Named>,
}

/// Why bytes are not a bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Not a safetensors file, or one that is cut short.
    #[error("not a safetensors file: {0}")]
    Broken(#[from] safetensors::SafeTensorError),
    /// Written by another program.
    #[error("the safetensors file has no `latente` metadata: another program wrote it")]
    Foreign,
    /// A tensor of another type.
    #[error("the tensor `{0}` is not of 32-bit floats")]
    NotFloats(String),
    /// The header does not parse.
    #[error("the header is not understood: {0}")]
    Header(#[from] serde_json::Error),
    /// A tensor that the header promises is missing or of the wrong size.
    #[error("{0}")]
    Content(String),
}

impl Bundle {
    /// The bytes of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let views = self.tensors.iter().map(|tensor| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytemuck::cast_slice(&tensor.values));
            (tensor.name.as_str(), view.expect("a tensor holds what its shape says; this is a bug"))
        });
        let metadata = HashMap::from([(KEY.to_owned(), self.header.clone())]);
        safetensors::serialize(views, Some(metadata)).expect("tensors of floats can always be written")
    }

    /// How many bytes at the start of a file hold what is said of it, by its first eight.
    ///
    /// # Errors
    /// They are fewer, or say more than is allowed.
    pub fn start_bytes(start: &[u8]) -> Result<usize, BundleError> {
        let Some(declared) = start.first_chunk().map(|length| u64::from_le_bytes(*length)) else {
            return Err(BundleError::Broken(safetensors::SafeTensorError::HeaderTooSmall));
        };
        match usize::try_from(declared).ok().filter(|length| *length <= MODEL_HEADER_BYTES) {
            Some(length) => Ok(size_of::<u64>() + length),
            None => Err(BundleError::Broken(safetensors::SafeTensorError::HeaderTooLarge)),
        }
    }

    /// What the start of a file says, without its tensors.
    ///
    /// # Errors
    /// It is no start of a file of this program.
    pub fn header_of(start: &[u8]) -> Result<String, BundleError> {
        #[derive(serde::Deserialize)]
        struct Start {
            #[serde(rename = "__metadata__", default)]
            metadata: HashMap<String, String>,
        }
        let end = Self::start_bytes(start)?;
        let json = start.get(size_of::<u64>()..end);
        let json = json.ok_or(BundleError::Broken(safetensors::SafeTensorError::HeaderTooSmall))?;
        let mut start: Start = serde_json::from_slice(json)?;
        start.metadata.remove(KEY).ok_or(BundleError::Foreign)
    }

    /// Reads a file; sizes are checked before anything is allocated by them.
    ///
    /// # Errors
    /// The bytes are not a bundle.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BundleError> {
        let (_, metadata) = SafeTensors::read_metadata(bytes)?;
        let header = metadata.metadata().as_ref().and_then(|map| map.get(KEY)).ok_or(BundleError::Foreign)?.clone();
        let file = SafeTensors::deserialize(bytes)?;
        let mut tensors: Vec<Named> = file
            .iter()
            .map(|(name, view)| {
                if view.dtype() != Dtype::F32 {
                    return Err(BundleError::NotFloats(name.to_owned()));
                }
                let values = view.data().as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
                Ok(Named { name: name.to_owned(), shape: view.shape().to_vec(), values })
            })
            .collect::<Result<_, _>>()?;
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { header, tensors })
    }

    /// Takes a tensor out.
    ///
    /// # Errors
    /// It is not there.
    pub fn take(&mut self, name: &str) -> Result<Vec<f32>, BundleError> {
        let position = self.tensors.iter().position(|tensor| tensor.name == name);
        let position = position.ok_or_else(|| BundleError::Content(format!("the tensor `{name}` is missing")))?;
        Ok(self.tensors.swap_remove(position).values)
    }
}

/// A tensor of one axis.
pub fn flat(name: &str, values: Vec<f32>) -> Named {
    Named { name: name.to_owned(), shape: vec![values.len()], values }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_survives_its_bytes_and_has_one_spelling() {
        let bundle = Bundle {
            header: r#"{"a": 1}"#.to_owned(),
            tensors: vec![
                Named { name: "m".into(), shape: vec![2, 2], values: vec![1.0, 2.0, 3.0, f32::MIN_POSITIVE] },
                flat("v", vec![]),
            ],
        };
        let bytes = bundle.to_bytes();
        assert_eq!(Bundle::from_bytes(&bytes).unwrap(), bundle);
        assert_eq!(bundle.to_bytes(), bytes);
    }

    #[test]
    fn damaged_files_are_refused() {
        let bytes = Bundle { header: String::new(), tensors: vec![flat("v", vec![1.0; 100])] }.to_bytes();
        for length in [0, 4, 20, bytes.len() - 1] {
            assert!(Bundle::from_bytes(&bytes[..length]).is_err(), "{length}");
        }
        let mut lies = bytes;
        lies[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(Bundle::from_bytes(&lies).is_err());
    }
}
