//! What is asked of a model: the outputs that are wanted choose the questions, and each question is asked once.

use std::collections::HashSet;

use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::ToSchema;

use super::catalogue::{Catalogue, Output};
use super::request::{Order, Wanted};
use super::rows::Given;
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::http::inference::impute::{self, ROUNDS};
use crate::http::inference::predict::learned_none;
use crate::http::inference::sample::{self, SampleSpec};
use crate::http::inference::score::{self, ScoreOptions};
use crate::http::inference::{Asked, Missing, ONLY_IMPUTE, Place};
use crate::serving::{Measure, Question};

/// Where options stand. Pointers of faults begin with it.
const PLACE: Place = "/parameters/";

/// A question to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuestionKind {
    /// Rows to codes.
    Encode,
    /// Codes to rows.
    Decode,
    /// Rows through the code and back.
    Reconstruct,
    /// New rows.
    Sample,
    /// Rows without their gaps.
    Impute,
    /// How strange rows are.
    Score,
    /// Labels of rows.
    Predict,
}

/// InferenceParameters of a request. Options mean what they mean under `/v1`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InferenceParameters {
    /// What the outputs belong to, where they do not say it themselves. When left out: `encode` for rows, `decode` for codes.
    pub(super) question: Option<QuestionKind>,
    /// Of a sample: how many rows; 16 when left out.
    n: Option<usize>,
    /// Which draws: of `sample`, `impute`, `score`, and of `decode` with `draw`.
    seed: Option<u64>,
    /// Of a sample.
    temperature: Option<f32>,
    /// Of a sample.
    steps: Option<u32>,
    /// Of `sample` and `decode`.
    draw: Option<bool>,
    /// Of `impute`.
    rounds: Option<u32>,
    /// Of `score`.
    measure: Option<Measure>,
    /// Of `score`. When left out 64 where an output wants them, else none.
    samples: Option<u32>,
    /// Of `score`.
    threshold: Option<f32>,
    /// Whether outputs come as bytes behind the JSON, unless they say otherwise themselves.
    pub(super) binary_data_output: Option<bool>,
    /// Microseconds after which the caller wants no answer.
    pub(super) timeout: Option<u64>,
    /// Of no meaning here: questions are answered in their order.
    #[serde(rename = "priority")]
    #[schema(value_type = Option<u64>)]
    _priority: Option<IgnoredAny>,
    /// Of no meaning here: no answer depends on an earlier one.
    #[serde(rename = "sequence_id")]
    #[schema(value_type = Option<u64>)]
    _sequence_id: Option<IgnoredAny>,
    /// Likewise.
    #[serde(rename = "sequence_start")]
    #[schema(value_type = Option<bool>)]
    _sequence_start: Option<IgnoredAny>,
    /// Likewise.
    #[serde(rename = "sequence_end")]
    #[schema(value_type = Option<bool>)]
    _sequence_end: Option<IgnoredAny>,
    /// Likewise.
    #[serde(rename = "content_type")]
    #[schema(value_type = Option<String>)]
    _content_type: Option<IgnoredAny>,
}

impl InferenceParameters {
    /// Those of a request that is nothing but bytes, and is answered by bytes.
    pub(super) fn bare() -> Self {
        Self { binary_data_output: Some(true), ..Self::default() }
    }
}

/// What is asked, and which outputs are made of the answers.
#[derive(Debug)]
pub(super) struct Plan {
    pub kinds: Vec<QuestionKind>,
    pub questions: Vec<Question>,
    pub outputs: Vec<Chosen>,
    /// Draws for the density of each row that is scored.
    pub samples: u32,
}

/// An output, and the question that answers it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chosen {
    pub output: Output,
    pub kind: QuestionKind,
    pub binary: bool,
}

impl Plan {
    /// Chooses the questions of a request, and checks them.
    pub fn of(asked: &Asked, catalogue: &Catalogue<'_>, order: Order) -> Result<Self, Refusal> {
        let Order { parameters, given, outputs, .. } = order;
        let main = main(&parameters, &given)?;
        let outputs = match outputs.is_empty() {
            true => defaults(asked, catalogue, main, parameters.binary_data_output.unwrap_or(false))?,
            false => chosen(asked, catalogue, (main, parameters.question.is_some()), &given, outputs)?,
        };
        let mut kinds: Vec<QuestionKind> = Vec::new();
        for chosen in &outputs {
            if !kinds.contains(&chosen.kind) {
                kinds.push(chosen.kind);
            }
        }
        require_use(&parameters, &kinds, main)?;
        require_values(asked, catalogue, &given, &kinds)?;
        let mut plan = Self { questions: Vec::new(), kinds, outputs, samples: 0 };
        plan.ask(asked, &parameters, given)?;
        Ok(plan)
    }

    fn wants(&self, among: &[Output]) -> bool {
        self.outputs.iter().any(|chosen| among.contains(&chosen.output))
    }

    fn ask(&mut self, asked: &Asked, parameters: &InferenceParameters, given: Given) -> Result<(), Refusal> {
        let mut values = match given {
            Given::Rows { values, .. } | Given::Codes(values) => values,
            Given::Nothing => Vec::new(),
        };
        let last = self.kinds.len() - 1;
        for (position, kind) in self.kinds.clone().into_iter().enumerate() {
            // The last question takes what the others have copies of.
            let values = if position == last { std::mem::take(&mut values) } else { values.clone() };
            let question = self.question(asked, parameters, kind, values)?;
            self.questions.push(question);
        }
        Ok(())
    }

    fn question(
        &mut self,
        asked: &Asked,
        parameters: &InferenceParameters,
        kind: QuestionKind,
        values: Vec<f32>,
    ) -> Result<Question, Refusal> {
        let (draw, seed) = (parameters.draw.unwrap_or(false), parameters.seed.unwrap_or(0));
        let refused =
            |name: &str, detail: &str| Refusal::at(Code::InvalidRequest, format!("{PLACE}{name}"), "conflict", detail);
        Ok(match kind {
            QuestionKind::Encode => {
                Asked::check_answer_size(values.len() / asked.width(), asked.latent())?;
                Question::Encode(values)
            }
            QuestionKind::Decode => {
                Asked::check_answer_size(values.len() / asked.latent(), asked.width())?;
                let spread = self.wants(&[Output::RowsSpread]);
                match (draw, spread) {
                    (true, true) => {
                        return Err(refused("draw", "goes without the output `rows_spread`: a draw has none"));
                    }
                    (true, false) => Question::DecodeDraw { codes: values, seed },
                    (false, _) if parameters.seed.is_some() => {
                        return Err(refused("seed", "goes with `draw`: means are the same for every seed"));
                    }
                    (false, true) => Question::DecodeSpread(values),
                    (false, false) => Question::Decode(values),
                }
            }
            QuestionKind::Reconstruct => Question::Reconstruct(values),
            QuestionKind::Sample => {
                let standard = SampleSpec::default();
                let spec = SampleSpec {
                    n: parameters.n.unwrap_or(standard.n),
                    seed,
                    temperature: parameters.temperature.unwrap_or(standard.temperature),
                    steps: parameters.steps,
                    draw,
                    given: None,
                };
                sample::question(asked, spec, PLACE)?
            }
            QuestionKind::Impute => {
                impute::question(asked, values, (parameters.rounds.unwrap_or(ROUNDS), None, seed), PLACE)?
            }
            QuestionKind::Score => self.score(asked, parameters, seed, values)?,
            QuestionKind::Predict => Question::Predict(values),
        })
    }

    fn score(
        &mut self,
        asked: &Asked,
        parameters: &InferenceParameters,
        seed: u64,
        rows: Vec<f32>,
    ) -> Result<Question, Refusal> {
        let measure = parameters.measure.unwrap_or_default();
        let drawn = self.wants(&Output::DENSITY) || measure == Measure::LogLikelihood;
        let standard = ScoreOptions::default();
        let options = ScoreOptions {
            measure,
            samples: parameters.samples.or((!drawn).then_some(0)),
            seed,
            threshold: parameters.threshold.unwrap_or(standard.threshold),
            contributions: self.wants(&[Output::Contributions]),
            ..standard
        };
        self.samples = score::check(asked, &options, rows.len() / asked.width(), PLACE)?;
        if drawn && self.samples == 0 {
            let detail = "is 0; outputs of the density take at least one";
            return Err(Refusal::at(Code::InvalidRequest, format!("{PLACE}samples"), "conflict", detail));
        }
        let ScoreOptions { threshold, contributions, .. } = options;
        Ok(Question::Score { rows, measure, threshold, samples: self.samples, seed, contributions })
    }
}

/// The question that outputs belong to unless they say otherwise.
fn main(parameters: &InferenceParameters, given: &Given) -> Result<QuestionKind, Refusal> {
    let question = parameters.question;
    let fault = |pointer: &str, detail: &str| Err(Refusal::at(Code::InvalidRequest, pointer, "conflict", detail));
    match (given, question) {
        (Given::Nothing, Some(QuestionKind::Sample)) => Ok(QuestionKind::Sample),
        (Given::Nothing, _) => {
            fault("/inputs", "is empty; only a sample takes no tensors: parameters {\"question\": \"sample\"}")
        }
        (_, Some(QuestionKind::Sample)) => fault("/inputs", "has tensors; a sample takes none"),
        (Given::Codes(_), None | Some(QuestionKind::Decode)) => Ok(QuestionKind::Decode),
        (Given::Codes(_), _) => fault("/parameters/question", "goes with rows; `codes` can be decoded"),
        (Given::Rows { .. }, Some(QuestionKind::Decode)) => {
            fault("/parameters/question", "goes with the tensor `codes`")
        }
        (Given::Rows { .. }, question) => Ok(question.unwrap_or(QuestionKind::Encode)),
    }
}

/// What is answered when no output is named.
fn defaults(
    asked: &Asked,
    catalogue: &Catalogue<'_>,
    kind: QuestionKind,
    binary: bool,
) -> Result<Vec<Chosen>, Refusal> {
    let mut outputs = match kind {
        QuestionKind::Encode => catalogue.codes(),
        QuestionKind::Decode | QuestionKind::Reconstruct | QuestionKind::Sample | QuestionKind::Impute => {
            catalogue.rows()
        }
        QuestionKind::Score => Output::SCORE.to_vec(),
        QuestionKind::Predict => catalogue.predictions(),
    };
    match kind {
        QuestionKind::Reconstruct => outputs.push(Output::Errors),
        QuestionKind::Score if asked.model.spec.model.has_density() => outputs.extend(Output::DENSITY),
        QuestionKind::Predict if outputs.is_empty() => return Err(learned_none(&asked.model)),
        _ => {}
    }
    Ok(outputs.into_iter().map(|output| Chosen { output, kind, binary }).collect())
}

/// The outputs that were named, each with its question.
fn chosen(
    asked: &Asked,
    catalogue: &Catalogue<'_>,
    (main, insisted): (QuestionKind, bool),
    given: &Given,
    wanted: Vec<Wanted>,
) -> Result<Vec<Chosen>, Refusal> {
    let mut faults = Faults::new();
    let mut seen = HashSet::new();
    let found = catalogue.find(wanted.iter().map(|wanted| wanted.name.as_str()));
    let mut chosen = Vec::with_capacity(wanted.len());
    for (position, (Wanted { name, binary }, output)) in wanted.into_iter().zip(found).enumerate() {
        let place = format!("/outputs/{position}/name");
        let Some(output) = output else {
            faults.push(place, "unknown", unknown(catalogue, &name));
            continue;
        };
        if !seen.insert(output) {
            faults.push(place, "duplicate", format!("is `{name}` again"));
            continue;
        }
        match question_of(asked, output, (main, insisted), given) {
            Ok(kind) => chosen.push(Chosen { output, kind, binary }),
            Err(detail) => faults.push(place, "not_available", format!("is `{name}`; {detail}")),
        }
    }
    faults.into_result(Code::InvalidRequest)?;
    Ok(chosen)
}

/// The question that an output is answered by, or why none is.
fn question_of(
    asked: &Asked,
    output: Output,
    (main, insisted): (QuestionKind, bool),
    given: &Given,
) -> Result<QuestionKind, String> {
    let model = &asked.model.spec.model;
    match (output, given) {
        (Output::Rows | Output::Column(_), Given::Rows { .. }) => match main {
            QuestionKind::Impute => Ok(QuestionKind::Impute),
            _ => Ok(QuestionKind::Reconstruct),
        },
        (Output::Rows | Output::Column(_), _) => Ok(main),
        (Output::RowsSpread, Given::Codes(_)) => Ok(QuestionKind::Decode),
        (Output::RowsSpread, _) => Err("it goes with the tensor `codes`".to_owned()),
        (_, Given::Codes(_)) => Err("it goes with rows; of `codes` there are rows and `rows_spread`".to_owned()),
        (_, Given::Nothing) => Err("a sample has rows".to_owned()),
        (Output::Spread, _) if !model.is_stochastic() => Err(format!("the codes of {} have no spread", asked.family())),
        (Output::Codes | Output::Spread, _) => Ok(QuestionKind::Encode),
        (Output::Errors, _) if insisted && main == QuestionKind::Impute => {
            Err("it goes with the question reconstruct".to_owned())
        }
        (Output::Errors, _) => Ok(QuestionKind::Reconstruct),
        (output, _) if Output::DENSITY.contains(&output) && !model.has_density() => {
            Err(format!("{} has no density", asked.family()))
        }
        (Output::Predictions | Output::PredictionsSpread | Output::Label(_), _) => {
            let learns = asked.model.spec.learns_labels(&asked.model.schema);
            if learns { Ok(QuestionKind::Predict) } else { Err(learned_none(&asked.model).detail) }
        }
        _ => Ok(QuestionKind::Score),
    }
}

fn unknown(catalogue: &Catalogue<'_>, name: &str) -> String {
    let shown: String = name.chars().take(100).collect();
    let outputs = catalogue.outputs();
    let some: Vec<_> = outputs.iter().take(24).map(|output| catalogue.describe(*output).name).collect();
    let more = if outputs.len() > some.len() { " …" } else { "" };
    format!("is `{shown}`; this model has {}{more}", some.join(", "))
}

/// Refuses options of questions that are not asked.
fn require_use(parameters: &InferenceParameters, kinds: &[QuestionKind], main: QuestionKind) -> Result<(), Refusal> {
    let mut faults = Faults::new();
    if parameters.question.is_some() && !kinds.contains(&main) {
        faults.push("/parameters/question", "conflict", "has none of the outputs that are wanted");
    }
    let mut option = |name: &str, given: bool, users: &[QuestionKind]| {
        if given && !kinds.iter().any(|kind| users.contains(kind)) {
            let users: Vec<String> = users.iter().map(|kind| format!("{kind:?}").to_lowercase()).collect();
            faults.push(format!("{PLACE}{name}"), "conflict", format!("goes with the question {}", users.join(" or ")));
        }
    };
    let InferenceParameters { n, seed, temperature, steps, draw, rounds, measure, samples, threshold, .. } = parameters;
    option("n", n.is_some(), &[QuestionKind::Sample]);
    option(
        "seed",
        seed.is_some(),
        &[QuestionKind::Sample, QuestionKind::Impute, QuestionKind::Score, QuestionKind::Decode],
    );
    option("temperature", temperature.is_some(), &[QuestionKind::Sample]);
    option("steps", steps.is_some(), &[QuestionKind::Sample]);
    option("draw", draw.is_some(), &[QuestionKind::Sample, QuestionKind::Decode]);
    option("rounds", rounds.is_some(), &[QuestionKind::Impute]);
    option("measure", measure.is_some(), &[QuestionKind::Score]);
    option("samples", samples.is_some(), &[QuestionKind::Score]);
    option("threshold", threshold.is_some(), &[QuestionKind::Score]);
    faults.into_result(Code::InvalidRequest)
}

/// Refuses missing values where one of the questions does not take them.
fn require_values(
    asked: &Asked,
    catalogue: &Catalogue<'_>,
    given: &Given,
    kinds: &[QuestionKind],
) -> Result<(), Refusal> {
    let keeps = |kind: &QuestionKind| {
        let missing = if *kind == QuestionKind::Impute { Missing::Kept } else { Missing::AsTrained };
        asked.missing(missing) == Missing::Kept
    };
    let refused = |pointer: &str, detail: String| Refusal::at(Code::InvalidRequest, pointer, "missing_value", detail);
    match given {
        Given::Codes(codes) => match codes.iter().position(|value| value.is_nan()) {
            Some(at) => {
                Err(refused(&format!("/inputs/0/data/{at}"), "is missing; a code has all its numbers".to_owned()))
            }
            None => Ok(()),
        },
        Given::Rows { values, absent } if !kinds.iter().all(keeps) => {
            if !absent.is_empty() {
                let some = absent.iter().take(12).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                let more = if absent.len() > 12 { " …" } else { "" };
                let detail = format!("has no tensor {some}{more}; {ONLY_IMPUTE}");
                return Err(refused("/inputs", detail));
            }
            let Some(at) = values.iter().position(|value| value.is_nan()) else { return Ok(()) };
            let (row, column) = (at / catalogue.features().len(), at % catalogue.features().len());
            let name = &catalogue.features()[column].name;
            Err(refused("/inputs", format!("has no value in row {row} of column `{name}`; {ONLY_IMPUTE}")))
        }
        _ => Ok(()),
    }
}
