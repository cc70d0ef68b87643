//! The code of `docs/testing.md`, word for word.

use std::time::Duration;

use actix::prelude::*;
use actix_outbox::testing::{Expected, Published, TestOutbox, run_handler};
use actix_outbox::{
    HandleTyped, HandlerError, NewEvent, OutboxSystem, PublishError, Status, Subscribe, TypedEvent, assert_published,
};
use diesel_async::{AsyncConnection, AsyncPgConnection};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::testing::connection;

#[derive(Serialize, Deserialize)]
pub(crate) struct UserCreated {
    pub(crate) name: String,
}

impl TypedEvent for UserCreated {
    const TYPE: &'static str = "user.created";
}

async fn sign_up(conn: &mut AsyncPgConnection, name: &str) -> Result<(), PublishError> {
    // … and what else belongs to the transaction
    let user = UserCreated { name: name.to_owned() };
    actix_outbox::publish(conn, NewEvent::typed("users", &user).partition_key(name)).await?;
    Ok(())
}

pub(crate) struct Mailer;

impl Actor for Mailer {
    type Context = Context<Self>;
}

impl Handler<HandleTyped<UserCreated>> for Mailer {
    type Result = Result<(), HandlerError>;

    fn handle(&mut self, message: HandleTyped<UserCreated>, _: &mut Self::Context) -> Self::Result {
        match message.data.name.as_str() {
            "" => Err(HandlerError::permanent("a user without a name")),
            "busy" => Err(HandlerError::after(Duration::from_secs(3_600), "the mail server is busy")),
            _ => Ok(()),
        }
    }
}

#[actix::test]
async fn a_user_is_announced_once() {
    let mut conn = connection().await;
    conn.begin_test_transaction().await.unwrap(); // never committed, so tests do not see each other's events
    sign_up(&mut conn, "Ada").await.unwrap();

    assert_published!(&mut conn, only: Expected::new("user.created").key("Ada"));

    sign_up(&mut conn, "Grace").await.unwrap();
    let mut published = Published::read(&mut conn).await.unwrap();
    published.expect_one(Expected::typed("named Grace", |user: UserCreated| user.name == "Grace"));
    published.expect(1, Expected::any().source("users").data_is(json!({"name": "Ada"})));
    published.expect_none("user.deleted");
    published.expect_no_more();
}

#[actix::test]
async fn a_user_without_a_name_gets_no_mail() {
    let mailer = Subscribe::typed::<UserCreated>("mailer", Mailer.start().recipient());
    let named = |name: &str| NewEvent::typed("tests", &UserCreated { name: name.to_owned() }).preview().unwrap();
    assert!(run_handler(&mailer, named("Ada")).await.is_ok());
    assert!(run_handler(&mailer, named("")).await.unwrap_err().is_permanent());
    assert_eq!(run_handler(&mailer, named("busy")).await.unwrap_err().delay(), Some(Duration::from_secs(3_600)));
}

#[actix::test]
async fn the_mail_is_sent_again_an_hour_later() {
    let test = TestOutbox::sqlite().await.unwrap();
    let mailer = Subscribe::typed::<UserCreated>("mailer", Mailer.start().recipient());
    let outbox = OutboxSystem::builder(test.settings().clone()).subscribe(mailer).start().await.unwrap();
    let user = UserCreated { name: "busy".to_owned() };
    let event = outbox.send(NewEvent::typed("tests", &user).max_retries(2)).await.unwrap();
    test.wait_until(event.id, |event| event.status == Status::Retry).await;

    test.advance(Duration::from_secs(3_600)).await.unwrap();
    let event = test.wait_until(event.id, |event| event.status == Status::Failed).await;
    assert_eq!(event.retry_count, 2);
    outbox.shutdown().await.unwrap();
}
