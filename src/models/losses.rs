//! Terms that several families add up. Each gives one number per row, in nats.

use tch::{Kind, Tensor};

use super::likelihood::Likelihood;

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

/// -log p of labels `[rows, labels]`, as the mean over rows; labels that are missing (NaN) count nothing.
pub fn known_negative_log(likelihood: &Likelihood, output: &Tensor, labels: &Tensor) -> Tensor {
    let missing = labels.isnan();
    let each = likelihood.negative_log_each(output, &labels.nan_to_num(Some(0.0), None, None));
    mean(&sum_columns(&each.masked_fill(&missing, 0.0)))
}

/// The losses of a discriminator that gives logits: of telling `real` from `fake`, as the mean over rows.
///
/// softplus(-a) = -log σ(a) and softplus(a) = -log(1 - σ(a)) (Goodfellow et al., 2014).
pub fn discrimination(real: &Tensor, fake: &Tensor) -> Tensor {
    mean(&(-real).softplus()) + mean(&fake.softplus())
}

/// The squared norm of the slope of `logits` `[rows, 1]` over the rows of `inputs`, as the mean over rows; it has a graph of its
/// own to the parameters (Mescheder, Geiger and Nowozin, 2018).
pub fn squared_slope(logits: &Tensor, inputs: &[&Tensor]) -> Tensor {
    let rows = logits.size()[0] as f64;
    let slopes = Tensor::run_backward(&[logits.sum(Kind::Float)], inputs, true, true);
    let (first, rest) = slopes.split_first().expect("there is an input; this is a bug");
    rest.iter().fold(first.square().sum(Kind::Float), |sum, slope| sum + slope.square().sum(Kind::Float)) / rows
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
    fn a_discriminator_in_doubt_loses_two_bits() {
        let zero = Tensor::zeros([4, 1], tch::kind::FLOAT_CPU);
        assert!((discrimination(&zero, &zero).double_value(&[]) - 4_f64.ln()).abs() < 1e-6);
        let sure = &zero + 3.0;
        let expected = 2.0 * (1.0 + (-3_f64).exp()).ln();
        assert!((discrimination(&sure, &-&sure).double_value(&[]) - expected).abs() < 1e-6);
    }

    #[test]
    fn the_slope_of_a_logit_and_its_own_gradient_are_those_of_the_formula() {
        // D(x) = w x², so that the slope is 2 w x, its square 4 w² x² and the gradient of that over w 8 w x².
        let w = Tensor::from_slice(&[0.7_f32]).set_requires_grad(true);
        let x = Tensor::from_slice(&[1.5_f32, -0.5]).view([2, 1]).set_requires_grad(true);
        let slope = squared_slope(&(&w * x.square()), &[&x]);
        let squares = (2.25 + 0.25) / 2.0;
        assert!((slope.double_value(&[]) - 4.0 * 0.49 * squares).abs() < 1e-5);
        let gradient = Tensor::run_backward(&[&slope], &[&w], false, false);
        assert!((f64::from(values(&gradient[0])[0]) - 8.0 * 0.7 * squares).abs() < 1e-5);
    }

    #[test]
    fn missing_labels_count_nothing() {
        use crate::models::likelihood::{LikelihoodKind, LikelihoodSpec, Modelled};
        let columns = vec![Modelled::linear(LikelihoodKind::Gaussian); 2];
        let mut builder = crate::models::parameters::Builder::new(0, tch::Device::Cpu);
        let likelihood = Likelihood::build(&LikelihoodSpec::default(), &columns, &mut builder);
        let labels = Tensor::from_slice(&[1.0_f32, f32::NAN, f32::NAN, f32::NAN]).view([2, 2]);
        let output = Tensor::zeros([2, 2], tch::kind::FLOAT_CPU).set_requires_grad(true);
        let loss = known_negative_log(&likelihood, &output, &labels);
        assert!((loss.double_value(&[]) - (0.5 + 0.5 * LN_2_PI) / 2.0).abs() < 1e-6);
        let gradient = Tensor::run_backward(&[&loss], &[&output], false, false);
        assert_eq!(values(&gradient[0]), [-0.5, 0.0, 0.0, 0.0]);
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
