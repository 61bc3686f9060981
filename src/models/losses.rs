//! Terms that several families add up. Each gives one number per row, in nats.

use tch::{Kind, Tensor};

/// ln(2π).
pub const LN_2_PI: f64 = 1.837_877_066_409_345_5;

/// KL(N(mean, exp(log_variance)) || N(0, I)) of each row (Kingma and Welling, 2014, appendix B).
///
/// `mean` and `log_variance` are `[..., latent]`; the answer is `[...]`.
pub fn kl_to_standard_normal(mean: &Tensor, log_variance: &Tensor) -> Tensor {
    sum_columns(&unit_kl(mean, log_variance))
}

/// The same of each unit, `[..., latent]`.
pub fn unit_kl(mean: &Tensor, log_variance: &Tensor) -> Tensor {
    (mean.square() + log_variance.exp() - log_variance - 1.0) * 0.5
}

/// log N(x; mean, exp(log_variance)) of each row.
pub fn log_normal(x: &Tensor, mean: &Tensor, log_variance: &Tensor) -> Tensor {
    let each: Tensor = ((x - mean).square() / log_variance.exp() + log_variance + LN_2_PI) * -0.5;
    sum_columns(&each)
}

/// log N(x; 0, I) of each row.
pub fn log_standard_normal(x: &Tensor) -> Tensor {
    sum_columns(&((x.square() + LN_2_PI) * -0.5))
}

/// Sums over the last axis.
pub fn sum_columns(each: &Tensor) -> Tensor {
    each.sum_dim_intlist([-1].as_slice(), false, Kind::Float)
}

/// The mean over rows, a scalar.
pub fn mean(rows: &Tensor) -> Tensor {
    rows.mean(Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::parameters::values;

    #[test]
    fn kl_is_that_of_the_closed_form_worked_by_hand() {
        // One unit: (m² + s² - 1 - ln s²) / 2 with m = 1, s² = 4 gives (1 + 4 - 1 - ln 4) / 2 = 1.306852819440055.
        let (mean, log_variance) =
            (Tensor::from_slice(&[1.0_f32, 0.0]).view([1, 2]), Tensor::from_slice(&[4_f32.ln(), 0.0]).view([1, 2]));
        let kl = values(&kl_to_standard_normal(&mean, &log_variance));
        assert!((kl[0] - 1.306_852_8).abs() < 1e-6, "{kl:?}");
    }

    #[test]
    fn densities_are_those_of_scipy() {
        // scipy.stats.norm.logpdf(0.3, -1.2, 0.7) = -2.8581817799...; norm.logpdf(0.3) = -0.9639385332...
        let one = |value: f32| Tensor::from_slice(&[value]).view([1, 1]);
        let density = values(&log_normal(&one(0.3), &one(-1.2), &one(2.0 * 0.7_f32.ln())));
        let expected = -0.5 * (1.5_f64 / 0.7).powi(2) - 0.7_f64.ln() - 0.5 * LN_2_PI;
        assert!((f64::from(density[0]) - expected).abs() < 1e-6, "{density:?} is not {expected}");
        let standard = values(&log_standard_normal(&one(0.3)));
        assert!((standard[0] - -0.963_938_5).abs() < 1e-6, "{standard:?}");
    }
}
