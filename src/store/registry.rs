//! The registry: models have names with versions, and aliases point to them.
//!
//! A version is given once, also when its model is deleted later. An alias moves in one transaction with the record of the
//! move, so that every reference to it is answered by the model before or the one after.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::{QueryBuilder, SqliteConnection};

use super::models::Model;
use super::{Page, Paged, Store, StoreError, gone, now_ms, parse, refused};
use crate::domain::id::ModelId;
use crate::domain::limits::ALIASES;
use crate::domain::reference::{ModelName, ModelRef};
use crate::domain::refusal::{Code, Refusal};

/// The place of a model in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its name.
    pub name: ModelName,
    /// Which model of that name, counted from 1.
    pub version: u32,
}

/// Where an alias points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The alias.
    pub alias: String,
    /// The model.
    pub model_id: ModelId,
    /// Its version.
    pub version: u32,
    /// When it was pointed there.
    pub since: i64,
}

/// One move of an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasMove {
    /// Later moves have a larger one.
    pub seq: i64,
    /// The alias.
    pub alias: String,
    /// The version it pointed to; absent where it was new.
    pub from: Option<u32>,
    /// The version it pointed to from then on; absent where it was removed.
    pub to: Option<u32>,
    /// When.
    pub at: i64,
}

/// `seq`, `alias`, `from_version`, `to_version` and `at`.
type MoveRow = (i64, String, Option<i64>, Option<i64>, i64);

impl Store {
    /// The model that a reference means now.
    ///
    /// # Errors
    /// There is none.
    pub async fn find_model(&self, reference: &ModelRef) -> Result<ModelId, StoreError> {
        if let ModelRef::Id(id) = reference {
            return Ok(*id);
        }
        let mut reader = self.readers.acquire().await?;
        find(&mut reader, reference).await
    }

    /// Gives a model the next version of a name. One that has this name already stays as it is.
    ///
    /// # Errors
    /// There is none of this id, or it has another name.
    pub async fn register_model(&self, id: ModelId, name: &ModelName) -> Result<Arc<Model>, StoreError> {
        let mut tx = self.begin().await?;
        let known: Option<(Option<String>, Option<i64>)> =
            sqlx::query_as("SELECT registered, version FROM models WHERE id = ? AND deleted_at IS NULL")
                .bind(id.to_string())
                .fetch_optional(&mut *tx)
                .await?;
        match known.ok_or_else(|| gone("model", id))? {
            (Some(other), Some(version)) if other != name.as_str() => {
                let detail = format!("the model {id} is {other}:{version}; a model keeps its name and version");
                return Err(refused(Code::ModelRegistered, detail));
            }
            (Some(_), _) => {}
            (None, _) => {
                let version = next_version(&mut tx, name).await?;
                sqlx::query("UPDATE models SET registered = ?, version = ? WHERE id = ?")
                    .bind(name.as_str())
                    .bind(version)
                    .bind(id.to_string())
                    .execute(&mut *tx)
                    .await?;
            }
        }
        tx.commit().await?;
        self.forget_row(id);
        self.model(id).await
    }

    /// Points an alias of a name to one of its versions; says whether the alias is new. Pointing it to where it points already is
    /// no move.
    ///
    /// # Errors
    /// There is no such model, it is not of this name, or the name has as many aliases as are allowed.
    pub async fn set_alias(
        &self,
        name: &ModelName,
        alias: &ModelName,
        target: &ModelRef,
    ) -> Result<(Alias, bool), StoreError> {
        let mut tx = self.begin().await?;
        let model = find(&mut tx, target).await?;
        let place: Option<(Option<String>, Option<i64>)> =
            sqlx::query_as("SELECT registered, version FROM models WHERE id = ? AND deleted_at IS NULL")
                .bind(model.to_string())
                .fetch_optional(&mut *tx)
                .await?;
        let version = match place.ok_or_else(|| gone("model", model))? {
            (Some(own), Some(version)) if own == name.as_str() => version,
            (own, _) => {
                let own = own.map_or("has no name".to_owned(), |own| format!("is of the name `{own}`"));
                let detail = format!("is {model}, which {own}; an alias of `{name}` points to a version of `{name}`");
                return Err(Refusal::at(Code::InvalidRequest, "/model", "wrong_name", detail).into());
            }
        };
        let before: Option<(String, i64, i64)> = sqlx::query_as(
            "SELECT a.model_id, m.version, a.since FROM aliases a JOIN models m ON m.id = a.model_id WHERE a.name = ? AND a.alias = ?",
        )
        .bind(name.as_str())
        .bind(alias.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let moved = |since| Alias { alias: alias.to_string(), model_id: model, version: version as u32, since };
        if let Some((_, _, since)) = before.as_ref().filter(|(id, ..)| *id == model.to_string()) {
            return Ok((moved(*since), false));
        }
        let is_new = before.is_none();
        if is_new {
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM aliases WHERE name = ?")
                .bind(name.as_str())
                .fetch_one(&mut *tx)
                .await?;
            if count >= ALIASES {
                let detail = format!("`{name}` has {count} aliases; allowed are {ALIASES}");
                return Err(Refusal::at(Code::InvalidRequest, "{alias}", "too_many", detail).into());
            }
        }
        let now = now_ms();
        sqlx::query(
            "INSERT INTO aliases (name, alias, model_id, since) VALUES (?, ?, ?, ?)
             ON CONFLICT (name, alias) DO UPDATE SET model_id = excluded.model_id, since = excluded.since",
        )
        .bind(name.as_str())
        .bind(alias.as_str())
        .bind(model.to_string())
        .bind(now)
        .execute(&mut *tx)
        .await?;
        let from = before.map(|(_, version, _)| version);
        record(&mut tx, (name.as_str(), alias.as_str()), (from, Some(version)), now).await?;
        tx.commit().await?;
        Ok((moved(now), is_new))
    }

    /// Removes an alias. What is known of its moves stays.
    ///
    /// # Errors
    /// There is none.
    pub async fn remove_alias(&self, name: &ModelName, alias: &ModelName) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let version: Option<i64> = sqlx::query_scalar(
            "SELECT m.version FROM aliases a JOIN models m ON m.id = a.model_id WHERE a.name = ? AND a.alias = ?",
        )
        .bind(name.as_str())
        .bind(alias.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let version = version.ok_or_else(|| gone("alias", format!("{name}@{alias}")))?;
        sqlx::query("DELETE FROM aliases WHERE name = ? AND alias = ?")
            .bind(name.as_str())
            .bind(alias.as_str())
            .execute(&mut *tx)
            .await?;
        record(&mut tx, (name.as_str(), alias.as_str()), (Some(version), None), now_ms()).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The aliases of a name, in their order.
    ///
    /// # Errors
    /// Nothing was ever registered under this name.
    pub async fn aliases(&self, name: &ModelName) -> Result<Vec<Alias>, StoreError> {
        let known: i64 = sqlx::query_scalar("SELECT count(*) FROM models WHERE registered = ?")
            .bind(name.as_str())
            .fetch_one(&self.readers)
            .await?;
        if known == 0 {
            return Err(unknown_name(name));
        }
        let rows: Vec<(String, String, i64, i64)> = sqlx::query_as(
            "SELECT a.alias, a.model_id, m.version, a.since FROM aliases a JOIN models m ON m.id = a.model_id
             WHERE a.name = ? ORDER BY a.alias",
        )
        .bind(name.as_str())
        .fetch_all(&self.readers)
        .await?;
        let alias = |(alias, model, version, since): (String, String, i64, i64)| {
            Ok(Alias { alias, model_id: parse(&model)?, version: version as u32, since })
        };
        rows.into_iter().map(alias).collect()
    }

    /// The moves of the aliases of a name, the newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn alias_moves(&self, name: &ModelName, page: &Page<i64>) -> Result<Paged<AliasMove>, StoreError> {
        let rows: Vec<MoveRow> = sqlx::query_as(
            "SELECT seq, alias, from_version, to_version, at FROM alias_moves
             WHERE name = ?1 AND (?2 IS NULL OR seq < ?2) ORDER BY seq DESC LIMIT ?3",
        )
        .bind(name.as_str())
        .bind(page.after)
        .bind(i64::from(page.limit) + 1)
        .fetch_all(&self.readers)
        .await?;
        let version = |number: Option<i64>| number.map(|number| number as u32);
        let moves = rows.into_iter().map(|(seq, alias, from, to, at)| {
            let (from, to) = (version(from), version(to));
            AliasMove { seq, alias, from, to, at }
        });
        Ok(Paged::from_one_more(moves.collect(), page.limit))
    }

    /// The aliases that point to each of these models.
    ///
    /// # Errors
    /// The database failed.
    pub async fn aliases_of(&self, models: &[ModelId]) -> Result<HashMap<ModelId, Vec<String>>, StoreError> {
        let mut query = QueryBuilder::new("SELECT model_id, alias FROM aliases WHERE model_id IN (");
        let mut ids = query.separated(", ");
        for model in models {
            ids.push_bind(model.to_string());
        }
        query.push(") ORDER BY alias");
        let rows: Vec<(String, String)> = query.build_query_as().fetch_all(&self.readers).await?;
        let mut aliases: HashMap<ModelId, Vec<String>> = HashMap::new();
        for (model, alias) in rows {
            aliases.entry(parse(&model)?).or_default().push(alias);
        }
        Ok(aliases)
    }
}

/// The version that the next model of a name gets. Those of deleted models are not given again.
pub(super) async fn next_version(tx: &mut SqliteConnection, name: &ModelName) -> Result<i64, StoreError> {
    let next = "SELECT coalesce(max(version), 0) + 1 FROM models WHERE registered = ?";
    Ok(sqlx::query_scalar(next).bind(name.as_str()).fetch_one(tx).await?)
}

/// Refuses to let go of a model that aliases point to, or takes those away where that is wanted.
pub(super) async fn release(tx: &mut SqliteConnection, model: ModelId, force: bool) -> Result<(), StoreError> {
    let aliases: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT a.name, a.alias, m.version FROM aliases a JOIN models m ON m.id = a.model_id WHERE a.model_id = ? ORDER BY a.alias",
    )
    .bind(model.to_string())
    .fetch_all(&mut *tx)
    .await?;
    if !aliases.is_empty() && !force {
        let names: Vec<String> = aliases.iter().map(|(name, alias, _)| format!("{name}@{alias}")).collect();
        let detail = format!(
            "the model {model} is what {} points to; move the alias first, or delete with ?force=true, which takes it away",
            names.join(", ")
        );
        return Err(refused(Code::ModelInUse, detail));
    }
    sqlx::query("DELETE FROM aliases WHERE model_id = ?").bind(model.to_string()).execute(&mut *tx).await?;
    let now = now_ms();
    for (name, alias, version) in aliases {
        record(&mut *tx, (&name, &alias), (Some(version), None), now).await?;
    }
    Ok(())
}

async fn find(connection: &mut SqliteConnection, reference: &ModelRef) -> Result<ModelId, StoreError> {
    let (found, missing): (Option<String>, _) = match reference {
        ModelRef::Id(id) => return Ok(*id),
        ModelRef::Newest(name) => {
            let sql = "SELECT id FROM models WHERE registered = ? AND deleted_at IS NULL ORDER BY version DESC LIMIT 1";
            let found = sqlx::query_scalar(sql).bind(name.as_str()).fetch_optional(connection).await?;
            (found, "no model is registered under this name")
        }
        ModelRef::Version(name, version) => {
            let sql = "SELECT id FROM models WHERE registered = ? AND version = ? AND deleted_at IS NULL";
            let query = sqlx::query_scalar(sql).bind(name.as_str()).bind(i64::from(*version));
            (query.fetch_optional(connection).await?, "the name has no such version, or it was deleted")
        }
        ModelRef::Alias(name, alias) => {
            let sql = "SELECT model_id FROM aliases WHERE name = ? AND alias = ?";
            let query = sqlx::query_scalar(sql).bind(name.as_str()).bind(alias.as_str());
            (query.fetch_optional(connection).await?, "the name has no such alias")
        }
    };
    match found {
        Some(id) => parse(&id),
        None => Err(refused(Code::NotFound, format!("there is no model {reference}: {missing}"))),
    }
}

fn unknown_name(name: &ModelName) -> StoreError {
    refused(Code::NotFound, format!("no model is registered under the name {name}"))
}

async fn record(
    tx: &mut SqliteConnection,
    (name, alias): (&str, &str),
    (from, to): (Option<i64>, Option<i64>),
    at: i64,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO alias_moves (name, alias, from_version, to_version, at) VALUES (?, ?, ?, ?, ?)")
        .bind(name)
        .bind(alias)
        .bind(from)
        .bind(to)
        .bind(at)
        .execute(tx)
        .await?;
    Ok(())
}
