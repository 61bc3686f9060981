//! What is drawn, what a grid has, and where values are set.

use serde_json::json;

use super::*;
use crate::domain::refusal::Code;

fn space(value: Value) -> Space {
    serde_json::from_value(value).unwrap()
}

fn wide() -> Space {
    space(json!({
        "/training/optimizer/lr": {"log_uniform": [1e-4, 1e-1]},
        "/network/dropout": {"uniform": [0.0, 0.5]},
        "/model/settings/latent": {"int": [2, 5]},
        "/training/batch_size": {"log_int": [8, 256]},
        "/network/hidden": {"values": [[64], [128, 64], []]},
    }))
}

#[test]
fn the_same_seed_draws_the_same_and_more_trials_or_fields_change_nothing_that_was_drawn() {
    let drawn = draws(&wide(), 50, 7);
    assert_eq!(drawn, draws(&wide(), 50, 7));
    assert_eq!(drawn[..20], draws(&wide(), 20, 7));
    assert_ne!(drawn, draws(&wide(), 50, 8));
    let mut narrow = wide();
    narrow.remove("/network/dropout");
    for (point, other) in drawn.iter().zip(draws(&narrow, 50, 7)) {
        assert!(other.iter().all(|(pointer, value)| point[pointer] == *value));
    }
}

#[test]
fn draws_stay_in_their_ranges_and_reach_all_of_them() {
    let drawn = draws(&wide(), 1000, 1);
    let numbers = |pointer: &str| drawn.iter().map(|point| point[pointer].as_f64().unwrap()).collect::<Vec<_>>();
    let share = |pointer: &str, below: f64| {
        let values = numbers(pointer);
        values.iter().filter(|value| **value < below).count() as f64 / values.len() as f64
    };
    for (pointer, low, high) in [
        ("/training/optimizer/lr", 1e-4, 1e-1),
        ("/network/dropout", 0.0, 0.5),
        ("/model/settings/latent", 2.0, 5.0),
        ("/training/batch_size", 8.0, 256.0),
    ] {
        assert!(numbers(pointer).iter().all(|value| (low..=high).contains(value)), "{pointer}");
    }
    // Logarithms are spread evenly: a third of the draws in each decade. The bounds are ten standard deviations wide.
    assert!((share("/training/optimizer/lr", 1e-3) - 1.0 / 3.0).abs() < 0.15);
    assert!((share("/network/dropout", 0.25) - 0.5).abs() < 0.16);
    assert!((share("/training/batch_size", 46.0) - 0.5).abs() < 0.16);
    for value in 2..=5 {
        assert!(numbers("/model/settings/latent").contains(&f64::from(value)));
    }
    assert!(drawn.iter().all(|point| point["/training/batch_size"].is_i64()), "whole numbers are whole in JSON");
}

#[test]
fn no_point_is_drawn_twice_while_there_are_others() {
    let small = space(json!({"/a": {"int": [1, 4]}, "/b": {"values": ["x", "y", null]}}));
    assert_eq!(count(&small), Some(12));
    let mut drawn = draws(&small, 12, 3);
    drawn.sort_by_key(text);
    drawn.dedup();
    assert_eq!(drawn.len(), 12);
    let many = space(json!({"/a": {"int": [1, 1000]}}));
    let distinct: HashSet<String> = draws(&many, 1000, 3).iter().map(text).collect();
    assert_eq!(distinct.len(), 1000);
    assert_eq!(count(&wide()), None);
}

#[test]
fn a_grid_has_every_point_once_with_both_ends() {
    let points = grid(&space(json!({
        "/lr": {"log_uniform": [1e-4, 1e-1], "steps": 4},
        "/depth": {"int": [1, 2]},
        "/kind": {"values": ["a", {"b": 1}]},
    })));
    assert_eq!(points.len(), 16);
    assert_eq!(
        points[0],
        Point::from([("/depth".into(), json!(1)), ("/kind".into(), json!("a")), ("/lr".into(), json!(1e-4))])
    );
    assert_eq!(points[3]["/lr"], json!(1e-1));
    assert!((points[1]["/lr"].as_f64().unwrap() - 1e-3).abs() < 1e-12);
    assert_eq!((&points[4]["/kind"], &points[8]["/depth"]), (&json!({"b": 1}), &json!(2)));
    let rounded = grid(&space(json!({"/n": {"int": [1, 3], "steps": 9}})));
    assert_eq!(rounded.iter().map(|point| point["/n"].as_i64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    let powers = grid(&space(json!({"/n": {"log_int": [2, 16], "steps": 4}})));
    assert_eq!(powers.iter().map(|point| point["/n"].as_i64().unwrap()).collect::<Vec<_>>(), [2, 4, 8, 16]);
    assert_eq!(grid_count(&space(json!({"/a": {"int": [i64::MIN, i64::MAX]}, "/b": {"int": [0, 9]}}))), u64::MAX);
}

#[test]
fn what_is_no_range_is_named() {
    let check = |choices: Value, is_grid: bool, expected: &[&str]| {
        let choices: Choices = serde_json::from_value(choices).unwrap();
        let mut faults = Faults::new();
        choices.check("/space/x", is_grid, &mut faults);
        let refusal = faults.into_result(Code::InvalidRequest).err();
        let found: Vec<String> =
            refusal.into_iter().flat_map(|refusal| refusal.errors).map(|fault| fault.pointer).collect();
        assert_eq!(found, expected, "{choices:?}");
    };
    check(json!({}), false, &["/space/x"]);
    check(json!({"int": [1, 2], "values": [1]}), false, &["/space/x"]);
    check(json!({"values": []}), false, &["/space/x/values"]);
    check(json!({"values": [1, 2, 1]}), false, &["/space/x/values/2"]);
    check(json!({"uniform": [1, 1]}), false, &["/space/x/uniform"]);
    check(json!({"log_uniform": [0, 1]}), false, &["/space/x/log_uniform"]);
    check(json!({"log_int": [-1, 1]}), false, &["/space/x/log_int"]);
    check(json!({"uniform": [0, 1]}), true, &["/space/x/steps"]);
    check(json!({"uniform": [0, 1], "steps": 1}), true, &["/space/x/steps"]);
    check(json!({"uniform": [0, 1], "steps": 3}), false, &["/space/x/steps"]);
    check(json!({"values": [0, 1], "steps": 2}), true, &["/space/x/steps"]);
    check(json!({"int": [0, 1]}), true, &[]);
}

#[test]
fn pointers_that_are_none_or_lead_into_each_other_are_named() {
    let mut faults = Faults::new();
    let values = json!({"values": [1]});
    check_pointers(
        &space(json!({"lr": values, "": values, "/a/b": values, "/a": values, "/ab": values, "/a~1b": values})),
        &mut faults,
    );
    let refusal = faults.into_result(Code::InvalidRequest).unwrap_err();
    let found: Vec<&str> = refusal.errors.iter().map(|fault| fault.pointer.as_str()).collect();
    assert_eq!(found, ["/space/", "/space/~1a~1b", "/space/lr"]);
}

#[test]
fn values_are_set_where_the_pointer_leads() {
    let mut spec = json!({"network": {"hidden": [1, 2]}, "likelihood": "bernoulli", "a/b": null});
    set(&mut spec, "/network/hidden/1", json!(7)).unwrap();
    set(&mut spec, "/training/optimizer/lr", json!(0.1)).unwrap();
    set(&mut spec, "/a~1b/c", json!([])).unwrap();
    assert_eq!(
        spec,
        json!({"network": {"hidden": [1, 7]}, "likelihood": "bernoulli", "a/b": {"c": []}, "training": {"optimizer": {"lr": 0.1}}})
    );
    assert!(set(&mut spec, "/network/hidden/2", json!(7)).unwrap_err().contains("has 2"));
    assert!(set(&mut spec, "/likelihood/variance", json!(7)).unwrap_err().contains("no object"));
}
