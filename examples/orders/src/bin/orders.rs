//! The order service: `POST /orders` writes an order and its event in one transaction. It sends nothing itself: `outbox
//! worker` brings the event to the stream, and the mailer reads it there. All of them are started by
//!
//! ```sh
//! export DATABASE_URL=postgres://localhost/shop REDIS_URL=redis://localhost
//! examples/orders/run.sh
//! curl -i -H 'content-type: application/json' -d '{"customer": "ada@example.com", "item": "book"}' http://127.0.0.1:8080/orders
//! ```
//!
//! or, one by one, with the lines of that script.

#![expect(missing_docs, reason = "diesel's macro writes none")]

use actix_outbox::actix_web::Probes;
use actix_outbox::{LoadOptions, NewEvent, Outbox, OutboxSystem, Settings, TransactionError, TypedEvent};
use actix_web::{App, HttpResponse, HttpServer, web};
use diesel::ExpressionMethods;
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};

diesel::table! {
    orders (id) { id -> BigInt, customer -> Text, item -> Text, }
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer text NOT NULL, item text NOT NULL)";

#[derive(Deserialize)]
struct Order {
    customer: String,
    item: String,
}

/// What other services learn. The mailer has its own copy of this type.
#[derive(Serialize)]
struct OrderPlaced<'a> {
    order: i64,
    customer: &'a str,
    item: &'a str,
}

impl TypedEvent for OrderPlaced<'_> {
    const TYPE: &'static str = "order.placed";
}

/// Stores an order and its event, both or neither. The events of a customer keep their order.
async fn place_order(
    outbox: Outbox,
    pool: web::Data<Pool<AsyncPgConnection>>,
    request: web::Json<Order>,
) -> Result<HttpResponse, TransactionError> {
    let Order { customer, item } = request.into_inner();
    let mut conn = pool.get().await?;
    let order = outbox
        .transaction(&mut conn, async |conn| {
            let insert = diesel::insert_into(orders::table)
                .values((orders::customer.eq(&customer), orders::item.eq(&item)))
                .returning(orders::id);
            let order = insert.get_result(conn).await?;
            let placed = OrderPlaced { order, customer: &customer, item: &item };
            let event = NewEvent::typed("order-service", &placed).partition_key(&customer);
            actix_outbox::publish(conn, event).await?;
            Ok(order)
        })
        .await?;
    Ok(HttpResponse::Created().json(OrderPlaced { order, customer: &customer, item: &item }))
}

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let settings = Settings::load(&LoadOptions::from_process())?; // outbox.toml, and the environment over it
    // `publish_only`: the system writes events and wakes the worker, which is a process of its own.
    let outbox = OutboxSystem::builder(settings).publish_only(true).start().await?;
    let pool = outbox.pool::<AsyncPgConnection>(16)?;
    diesel::sql_query(TABLE).execute(&mut pool.get().await?).await?;

    let probes = Probes::new(&outbox);
    let (app_outbox, app_pool) = (web::Data::new(outbox.clone()), web::Data::new(pool));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(app_outbox.clone())
            .app_data(app_pool.clone())
            .configure(|config| probes.configure(config))
            .route("/orders", web::post().to(place_order))
    });
    let server = server.bind(&address)?.run();
    println!("orders at http://{address}/orders");
    server.await?;
    outbox.shutdown().await?;
    Ok(())
}
