//! A statement of the inbox on a connection of diesel.

use std::future::Future;

use diesel::backend::Backend;
use diesel::connection::LoadConnection;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::serialize::ToSql;
use diesel::sql_types::{HasSqlType, Text};
use diesel_async::AsyncConnection;

use super::{Answer, InboxStatement, Returns};
use crate::publish::Dialect;

/// Its text does not depend on its parameters, so the server may keep it and its plan.
struct TextQuery(InboxStatement);

impl<DB> QueryFragment<DB> for TextQuery
where
    DB: Backend + HasSqlType<Text>,
    String: ToSql<Text, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        let mut rest = self.0.sql;
        for (n, param) in (1..).zip(&self.0.params) {
            let placed = [format!("?{n}"), format!("${n}"), "?".to_owned()];
            let placed = placed.iter().find_map(|placeholder| rest.split_once(placeholder.as_str()));
            let (before, after) = placed.unwrap_or((rest, ""));
            out.push_sql(before);
            out.push_bind_param::<Text, _>(param)?;
            rest = after;
        }
        out.push_sql(rest);
        Ok(())
    }
}

/// Statements are told apart by their text.
impl QueryId for TextQuery {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for TextQuery {
    type SqlType = Text;
}

impl<C> diesel::RunQueryDsl<C> for TextQuery {}

/// Executes statements of the inbox, over any kind of connection.
pub trait TextQueries: Backend + Sized {
    /// The database's language.
    const DIALECT: Dialect;

    /// The answer to a statement.
    fn answer<C>(conn: &mut C, statement: InboxStatement) -> impl Future<Output = QueryResult<Answer>> + Send
    where
        C: AsyncConnection<Backend = Self>;

    /// The rows of a statement.
    fn texts<C>(conn: &mut C, statement: InboxStatement) -> impl Future<Output = QueryResult<Vec<String>>> + Send
    where
        C: AsyncConnection<Backend = Self>,
    {
        async { Ok(Self::answer(conn, statement).await?.rows()) }
    }

    /// The answer to a statement.
    fn answer_blocking<C>(conn: &mut C, statement: InboxStatement) -> QueryResult<Answer>
    where
        C: LoadConnection<Backend = Self>;

    /// The rows of a statement.
    fn texts_blocking<C>(conn: &mut C, statement: InboxStatement) -> QueryResult<Vec<String>>
    where
        C: LoadConnection<Backend = Self>,
    {
        Self::answer_blocking(conn, statement).map(Answer::rows)
    }
}

macro_rules! text_queries {
    ($database:ty, $dialect:ident) => {
        impl TextQueries for $database {
            const DIALECT: Dialect = Dialect::$dialect;

            async fn answer<C>(conn: &mut C, statement: InboxStatement) -> QueryResult<Answer>
            where
                C: AsyncConnection<Backend = Self>,
            {
                use diesel_async::RunQueryDsl;

                Ok(match statement.returns {
                    Returns::Rows => Answer::Rows(TextQuery(statement).load(conn).await?),
                    Returns::Count => Answer::Count(TextQuery(statement).execute(conn).await?),
                    Returns::Nothing => {
                        conn.batch_execute(statement.sql).await?;
                        Answer::Count(0)
                    }
                })
            }

            fn answer_blocking<C>(conn: &mut C, statement: InboxStatement) -> QueryResult<Answer>
            where
                C: LoadConnection<Backend = Self>,
            {
                use diesel::RunQueryDsl;

                Ok(match statement.returns {
                    Returns::Rows => Answer::Rows(TextQuery(statement).load(conn)?),
                    Returns::Count => Answer::Count(TextQuery(statement).execute(conn)?),
                    Returns::Nothing => {
                        conn.batch_execute(statement.sql)?;
                        Answer::Count(0)
                    }
                })
            }
        }
    };
}

#[cfg(feature = "mysql")]
text_queries!(diesel::mysql::Mysql, Mysql);
#[cfg(feature = "postgres")]
text_queries!(diesel::pg::Pg, Postgres);
#[cfg(feature = "sqlite")]
text_queries!(diesel::sqlite::Sqlite, Sqlite);
