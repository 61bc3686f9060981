//! Makes a file for other programs of a model file. The server starts the same command for its answers.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::training::export::{Form, Part, export};

/// Make a file for other programs of a model.
#[derive(Args, Debug)]
pub(super) struct Export {
    /// The model file (safetensors).
    model: PathBuf,
    /// The form: onnx or torchscript.
    #[arg(long, default_value = "onnx", value_parser = form)]
    form: Form,
    /// The part of the model: encoder, decoder, reconstructor, scorer or predictor.
    #[arg(long, default_value = "encoder", value_parser = part)]
    part: Part,
    /// The file to write. [default: PART.onnx or PART.pt]
    #[arg(long, short)]
    output: Option<PathBuf>,
}

impl Export {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let bytes = std::fs::read(&self.model).with_context(|| format!("{} cannot be read", self.model.display()))?;
        let output =
            self.output.unwrap_or_else(|| PathBuf::from(format!("{}.{}", self.part.as_str(), self.form.ending())));
        Ok(export(&bytes, self.part, self.form, &output)?)
    }
}

fn form(name: &str) -> Result<Form, String> {
    let all = Form::ALL.map(Form::as_str).join(" and ");
    Form::ALL.into_iter().find(|form| form.as_str() == name).ok_or_else(|| format!("the forms are {all}"))
}

fn part(name: &str) -> Result<Part, String> {
    let all = Part::ALL.map(Part::as_str).join(", ");
    Part::ALL.into_iter().find(|part| part.as_str() == name).ok_or_else(|| format!("the parts are {all}"))
}
