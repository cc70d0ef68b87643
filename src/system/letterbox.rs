//! News that waits until somebody takes it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::store::News;

/// However much is put in, what waits is a mark for each lane.
pub(crate) struct Letterbox {
    inside: Mutex<(News, usize)>,
    arrived: Arc<Notify>,
}

impl Letterbox {
    /// `arrived` is told of all that is put in.
    pub(crate) fn new(arrived: Arc<Notify>) -> Self {
        Self { inside: Mutex::default(), arrived }
    }

    pub(crate) fn put(&self, news: News) {
        if news.is_empty() {
            return;
        }
        {
            let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
            inside.0.add(news);
            inside.1 += 1;
        }
        self.arrived.notify_one();
    }

    /// All that was put in, and how often something was.
    pub(crate) fn take(&self) -> (News, usize) {
        std::mem::take(&mut *self.inside.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).0.is_empty()
    }

    pub(crate) async fn arrival(&self) {
        self.arrived.notified().await;
    }
}
