//! Several answers to one request, taken as they come.

use std::pin::Pin;
use std::task::{Context, Poll};

use kwaainet_engine::request::{Event, Ticket};
use smol::future::poll_fn;
use smol::stream::{self, Stream};

type Events = Pin<Box<dyn Stream<Item = Event>>>;

/// The tickets of one request. Dropping them cancels all.
pub struct Choices {
    /// `None` once an answer has ended.
    tickets: Vec<Option<Events>>,
    /// Who is asked first, so that a fast answer doesn't starve the others.
    turn: usize,
}

impl Choices {
    /// The choices in order.
    pub fn new(tickets: Vec<Ticket>) -> Choices {
        let events = |ticket: Ticket| -> Option<Events> {
            Some(Box::pin(stream::unfold(ticket, |mut ticket| async move {
                ticket.next().await.map(|event| (event, ticket))
            })))
        };
        Choices { tickets: tickets.into_iter().map(events).collect(), turn: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tickets.len()
    }

    /// The next event of any choice, with the choice's index; `None` after the last event of all.
    pub async fn next(&mut self) -> Option<(usize, Event)> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Event)>> {
        let count = self.tickets.len();
        let mut is_over = true;
        for step in 0..count {
            let index = (self.turn + step) % count;
            let Some(events) = &mut self.tickets[index] else { continue };
            match events.as_mut().poll_next(context) {
                Poll::Ready(Some(event)) => {
                    self.turn = (index + 1) % count;
                    return Poll::Ready(Some((index, event)));
                }
                Poll::Ready(None) => self.tickets[index] = None,
                Poll::Pending => is_over = false,
            }
        }
        if is_over { Poll::Ready(None) } else { Poll::Pending }
    }
}
