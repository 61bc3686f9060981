//! How long a caller waits for an answer: the preference `wait` (RFC 7240, section 4.3).

use std::time::Duration;

use axum::http::HeaderMap;
use tokio::time::Instant;
use utoipa::IntoParams;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};

/// The header, for the API document.
pub(super) struct Patience;

impl IntoParams for Patience {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let prefer = ParameterBuilder::new().name("Prefer").parameter_in(ParameterIn::Header).required(Required::False);
        let text = "`wait=5`: the caller waits five seconds for its answer and no longer (RFC 7240)";
        vec![prefer.description(Some(text)).schema(Some(<String as utoipa::PartialSchema>::schema())).build()]
    }
}

/// A day; who waits longer waits as long as it takes.
const LONGEST: u64 = 86_400;

/// Until when a caller waits that says `Prefer: wait=5`, in seconds from now. What is not understood is no preference, as the RFC
/// has it.
pub(super) fn deadline(headers: &HeaderMap) -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(seconds(headers)?))
}

fn seconds(headers: &HeaderMap) -> Option<u64> {
    let lines = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    // Of a preference that is given twice the first counts.
    let wait = lines.flat_map(|line| line.split(',')).find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"'))
    })?;
    wait.parse().ok().filter(|seconds| *seconds <= LONGEST)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_preference_is_read_among_others() {
        let of = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            lines.iter().for_each(|line| {
                headers.append("prefer", HeaderValue::from_static(line));
            });
            seconds(&headers)
        };
        assert_eq!(of(&["wait=5"]), Some(5));
        assert_eq!(of(&["respond-async, Wait = \"0\"; x=1"]), Some(0));
        assert_eq!(of(&["return=minimal", "wait=7, wait=9"]), Some(7));
        for nothing in ["wait", "wait=soon", "wait=-1", "wait=99999999999", "await=5"] {
            assert_eq!(of(&[nothing]), None, "{nothing}");
        }
        assert_eq!(of(&[]), None);
    }
}
