//! Endpoint order: the endpoints one after the other, each as one account after the other, and all of them once
//! more where that may help.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::iter::Take;
use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBackoff;
use tokio::time::Instant;

use super::budget::{Budget, Share};
use super::health::{Need, Pass, Resource};
use super::observer::BodyGuard;
use super::rate_limit::{Cost, Turn as Try};
use super::request::{Account, Answer, Body, Endpoint, Inner, Request, Wanted};
use super::timings::Timings;
use super::traits::{Health, RANK_ORIGIN_LACKS};
use super::turns::Turn;
use super::{EndpointId, FetchError, Patience};
use crate::net::Deadline;

/// The most rounds in which everybody is asked when all fail for a moment: a third time helps in few cases,
/// a fourth hardly ever, and each is load on a server that has enough.
const ROUNDS_MAX: usize = 3;

/// The same when a limit ends in time, and holds again: GHCR says microseconds to hundreds of requests a second, and
/// the waits double up to a second.
const LIMITED_ROUNDS_MAX: u32 = 6;

impl Inner {
    /// Sends a request to the endpoints in order, and to all of them once more where that may help, within
    /// `header_timeout` in all: waiting for a connection, tokens, redirects and repeats included.
    ///
    /// # Errors
    /// The most telling error of all endpoints, see [`Traits::rank`](super::traits::Traits::rank).
    pub(super) async fn failover(&self, request: &Request<'_>) -> Result<Answer, FetchError> {
        let logins = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint.accounts.len());
        let budget = Budget::new(self.header_timeout, logins);
        let mut rounds = Rounds::new(self.timings, request);
        loop {
            // Boxed: whoever waits for an upstream should not make every request that may have to large.
            let failures = match Box::pin(self.round(request, &mut rounds, &budget)).await {
                Ok(answer) => return Ok(answer),
                Err(failures) => failures,
            };
            match rounds.next(&failures, budget.deadline().left()) {
                Next::GiveUp => return Err(failures.final_error()),
                Next::AtOnce => {}
                Next::After(wait) => {
                    tokio::time::sleep(wait).await;
                    self.observer.retry();
                }
            }
        }
    }

    /// Asks every endpoint once that may be asked now, one after the other, until one answers.
    async fn round(
        &self,
        request: &Request<'_>,
        rounds: &mut Rounds,
        budget: &Budget,
    ) -> Result<Answer, Failures> {
        let mut failures = Failures::default();
        let (endpoints, refused) = self.order(request, &rounds.ruled_out, Instant::now());
        if endpoints.is_empty() {
            return Err(self.with(failures, refused));
        }
        let turn = match self.turn(request, budget.deadline()).await {
            Ok(turn) => turn,
            Err(busy) => return Err(Failures::default().and(busy.into())),
        };
        let mut left = endpoints.len();
        for endpoint in endpoints {
            let share = budget.share(endpoint.id, left);
            left = left.saturating_sub(1);
            let pass = self.observer.health.admit(endpoint.id, Instant::now());
            let (pass, share) = match (pass, share) {
                (Ok(pass), Some(share)) => (pass, share),
                (Err(error), _) => {
                    failures.add_unasked(self.by(endpoint.id, error));
                    continue;
                }
                (_, None) => continue,
            };
            let result = tokio::select! {
                biased;
                result = self.ask(endpoint, request, share) => result,
                () = turn.recalled() => {
                    if budget.is_spent(endpoint.id) {
                        rounds.ruled_out.push((endpoint.id, FetchError::Busy));
                    }
                    return Err(Failures::gave_way());
                }
            };
            self.note(endpoint, pass, request, &result);
            let error = match result {
                Ok(answer) => return Ok(self.hand_over(request, answer, turn)),
                Err(error) => error,
            };
            let elsewhere = left > 0 && error.traits().try_endpoint;
            let failover = elsewhere && !error.traits().is_absence;
            self.observer.no_answer(endpoint.id, &error, elsewhere);
            if error.traits().is_absence || budget.is_spent(endpoint.id) {
                rounds.ruled_out.push((endpoint.id, error.clone()));
            }
            failures.add(self.by(endpoint.id, error));
            if !elsewhere {
                break;
            }
            if budget.deadline().passed() {
                // The others may have it.
                failures.add_unasked(FetchError::Timeout("an endpoint").into());
                break;
            }
            if failover {
                self.observer.failover();
            }
        }
        Err(self.with(failures, refused))
    }

    /// Adds why these endpoints were not asked.
    fn with(&self, mut failures: Failures, refused: Vec<(EndpointId, FetchError)>) -> Failures {
        for (endpoint, error) in refused {
            failures.add_unasked(self.by(endpoint, error));
        }
        failures
    }

    /// The endpoints to ask, in order, and why the others are not asked. Of those that were not to be
    /// asked (`ask.endpoints`) the ill ones are among the latter: they may have what the asked ones have not.
    fn order(
        &self,
        request: &Request<'_>,
        ruled_out: &[(EndpointId, FetchError)],
        now: Instant,
    ) -> (Vec<&Endpoint>, Vec<(EndpointId, FetchError)>) {
        let health = &self.observer.health;
        let order = if request.endpoints.is_empty() {
            health.order(request.need(), now)
        } else {
            request.endpoints.to_vec()
        };
        let (mut endpoints, mut refused) = (Vec::new(), Vec::new());
        for endpoint in order.iter().filter_map(|id| self.endpoints.get(id.0)) {
            if let Some(before) = ruled_out.iter().find(|(id, _)| *id == endpoint.id) {
                refused.push(before.clone());
            } else if let Some(error) = health.refusal(endpoint.id, request.resource(), now) {
                refused.push((endpoint.id, error));
            } else if let Some(left) = endpoint
                .limited(request.cost(), now)
                // A limit of this mirror's is none of the client's.
                .filter(|_| self.clients(endpoint).is_none())
            {
                let retry_after = Some(left);
                refused.push((endpoint.id, FetchError::RateLimited { retry_after }));
            } else {
                endpoints.push(endpoint);
            }
        }
        let others = (0..self.endpoints.len()).map(EndpointId);
        let others = others.filter(|id| !order.contains(id));
        refused.extend(others.filter_map(|id| {
            let error = health.refusal(id, request.resource(), now)?;
            Some((id, error))
        }));
        (endpoints, refused)
    }

    /// An error of this endpoint's. The last one that is configured is the origin.
    fn by(&self, endpoint: EndpointId, error: FetchError) -> Failure {
        let origin = endpoint.0 + 1 == self.endpoints.len();
        Failure { error, origin }
    }

    /// One of `max_connections`.
    ///
    /// # Errors
    /// [`FetchError::Busy`], [`FetchError::Limited`].
    async fn turn(&self, request: &Request<'_>, deadline: Deadline) -> Result<Turn, FetchError> {
        if request.connection.extra {
            return self.turns.extra().ok_or(FetchError::Busy);
        }
        self.turns.turn(deadline).await
    }

    /// Gives the turn to a body that is still to come.
    fn hand_over(&self, request: &Request<'_>, mut answer: Answer, turn: Turn) -> Answer {
        if let Body::Stream(body, _) = &mut answer.body {
            body.guard(BodyGuard {
                observer: Arc::clone(&self.observer),
                endpoint: answer.endpoint,
                resource: request.resource(),
                began: Instant::now(),
                turn,
            });
        }
        answer
    }

    /// Keeps in mind how an endpoint did.
    fn note(
        &self,
        endpoint: &Endpoint,
        pass: Pass<'_>,
        request: &Request<'_>,
        result: &Result<Answer, FetchError>,
    ) {
        let change = match result {
            Ok(_) => pass.answered(!matches!(request.body, Wanted::Stream)),
            // Ranges are not what it can do; that is kept in mind elsewhere.
            Err(FetchError::Protocol(_)) if request.range.is_some() => pass.answered(false),
            Err(error) => match error.traits().health {
                Health::Well => pass.answered(true),
                Health::Ill => pass.failed(error, request.resource(), Instant::now()),
                Health::Unknown => None,
            },
        };
        let why = result.as_ref().err().map(ToString::to_string);
        self.observer
            .changed(endpoint.id, change, why.as_deref().unwrap_or_default());
    }

    /// Asks one endpoint as the client that has caused the request, if that has a credential for it; else as one of our
    /// accounts.
    async fn ask(
        &self,
        endpoint: &Endpoint,
        request: &Request<'_>,
        share: Share<'_>,
    ) -> Result<Answer, FetchError> {
        match self.clients(endpoint) {
            // Boxed, as few requests are such.
            Some(credential) => {
                Box::pin(self.as_client(endpoint, &credential, request, share)).await
            }
            None => self.as_account(endpoint, request, share).await,
        }
    }

    /// Asks one endpoint as one account after the other, while they are limited or refused; as each once more, when the
    /// connection broke before an answer was there. Servers close idle connections at any time, which is no sign that
    /// they are ill.
    async fn as_account(
        &self,
        endpoint: &Endpoint,
        request: &Request<'_>,
        share: Share<'_>,
    ) -> Result<Answer, FetchError> {
        let mut failures = Failures::default();
        let now = Instant::now();
        let limited_before = endpoint.shortest_limit(request.cost(), now);
        for account in endpoint.usable(request.cost(), now) {
            // Another request may have taken the turn.
            let Some(turn) = account.limit.take(request.cost(), Instant::now()) else {
                continue;
            };
            let mut repeated = false;
            let result = loop {
                let landed = endpoint.authorised(account, request, share).await;
                let result = match landed {
                    Ok(landed) => self.read(endpoint, request, landed, share.deadline).await,
                    Err(error) => Err(error),
                };
                let broken = matches!(result, Err(FetchError::Broken(_)));
                if !broken || std::mem::replace(&mut repeated, true) || !share.registry.repeat() {
                    break result;
                }
                self.observer.retry();
            };
            let error = match result {
                Ok(answer) => {
                    self.not_limited(account, request, turn);
                    return Ok(answer);
                }
                Err(FetchError::RateLimited { retry_after }) => {
                    self.limited(endpoint, account, request, retry_after)
                }
                Err(error) => {
                    if error.is_absence() {
                        self.not_limited(account, request, turn);
                    }
                    error
                }
            };
            let another = error.traits().try_account && !share.registry.is_spent();
            failures.add(error.into());
            if !another || share.deadline.passed() {
                return Err(failures.final_error());
            }
        }
        // Those that were limited before might have been given it.
        if let Some(left) = endpoint
            .shortest_limit(request.cost(), Instant::now())
            .or(limited_before)
            .filter(|_| limited_before.is_some() || failures.final_error.is_none())
        {
            let retry_after = Some(left);
            failures.add(FetchError::RateLimited { retry_after }.into());
        }
        Err(failures.final_error())
    }

    /// The account was refused an answer because of its rate limit.
    fn limited(
        &self,
        endpoint: &Endpoint,
        account: &Account,
        request: &Request<'_>,
        retry_after: Option<Duration>,
    ) -> FetchError {
        let (cost, now) = (request.cost(), Instant::now());
        let (wait, news) = account.limit.limited(cost, retry_after, now);
        let news = news.then(|| (wait, account.limit.source()));
        self.observer
            .limited(endpoint.id, cost, news, self.limited_until(now));
        // A long limit may turn out to be over before.
        let left = account.limit.until(cost, now);
        let left = left.map_or(wait, |left| left.saturating_duration_since(now));
        FetchError::RateLimited {
            retry_after: Some(retry_after.unwrap_or(wait).min(left)),
        }
    }

    /// The account was given an answer.
    fn not_limited(&self, account: &Account, request: &Request<'_>, turn: Try) {
        if account.limit.answered(request.cost(), turn) {
            self.observer
                .limited_until(self.limited_until(Instant::now()));
        }
    }

    /// When the first account of all endpoints may pull again, if none may now.
    fn limited_until(&self, now: Instant) -> Option<Instant> {
        let endpoints = self.endpoints.iter();
        let all: Option<Vec<_>> = endpoints
            .map(|endpoint| endpoint.limited_until(Cost::Pull, now))
            .collect();
        all?.into_iter().min()
    }
}

impl Request<'_> {
    fn resource(&self) -> Resource {
        let mut hasher = DefaultHasher::new();
        self.repository.as_str().hash(&mut hasher);
        let repository = hasher.finish();
        self.rest.as_str().hash(&mut hasher);
        let path = hasher.finish();
        Resource { repository, path }
    }

    fn need(&self) -> Need<'_> {
        Need {
            digest: self.digest,
            bytes: matches!(self.body, Wanted::Stream),
            explore: true,
        }
    }
}

/// The rounds of one request.
struct Rounds {
    /// True if anything is waited for at all.
    patient: bool,
    /// True if the request is only worth a connection that is free.
    extra: bool,
    /// Rounds in which an endpoint was asked.
    asked: u32,
    /// Before each further round after failures of a moment.
    pauses: Take<ExponentialBackoff>,
    /// After the end of a limit.
    jitter: ExponentialBackoff,
    /// The endpoints that are not asked again, and why: they refuse, or have used up their part of the budget.
    ruled_out: Vec<(EndpointId, FetchError)>,
}

/// The step after a round without an answer.
enum Next {
    GiveUp,
    /// Another round, as soon as there is a connection.
    AtOnce,
    /// Another round, after so long.
    After(Duration),
}

impl Rounds {
    fn new(timings: Timings, request: &Request<'_>) -> Self {
        let again = ROUNDS_MAX.saturating_sub(1);
        Self {
            patient: request.patience == Patience::Wait && !request.connection.extra,
            extra: request.connection.extra,
            asked: 0,
            pauses: timings.round_pauses().take(again),
            jitter: timings.limited_jitter(),
            ruled_out: Vec::new(),
        }
    }

    /// The step after a round with these failures, in the time that is left.
    fn next(&mut self, failures: &Failures, left: Duration) -> Next {
        self.asked += u32::from(failures.asked);
        if failures.gave_way && !self.extra && !left.is_zero() {
            return Next::AtOnce;
        }
        if !self.patient || failures.settled() || self.asked >= LIMITED_ROUNDS_MAX {
            return Next::GiveUp;
        }
        let moment = failures
            .for_a_moment()
            .then(|| self.pauses.next())
            .flatten();
        let wait = moment.or_else(|| {
            let over = failures.over_in(&mut self.pauses)?;
            Some(over.saturating_add(self.jitter.next().unwrap_or_default()))
        });
        match wait {
            Some(wait) if wait < left => Next::After(wait),
            Some(_) | None => Next::GiveUp,
        }
    }
}

/// The failure of an endpoint.
#[derive(Debug)]
struct Failure {
    error: FetchError,
    /// True if the endpoint is the origin, which has everything there is.
    origin: bool,
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let origin = false;
        Self { error, origin }
    }
}

/// The errors of one round.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says of the round's failures that there was one of a kind"
)]
struct Failures {
    /// The most telling one, and its rank.
    final_error: Option<(u8, FetchError)>,
    /// The shortest time that is left of a limit.
    limited: Option<Duration>,
    /// The shortest time of the pauses that endpoints asked for.
    rests: Option<Duration>,
    /// One failed as servers do for a moment.
    momentary: bool,
    /// One failed as they do for longer.
    lasting: bool,
    /// The connection was needed more by somebody else.
    gave_way: bool,
    /// An endpoint was asked.
    asked: bool,
}

impl Failures {
    fn gave_way() -> Self {
        let this = Self {
            gave_way: true,
            ..Self::default()
        };
        this.and(FetchError::Busy.into())
    }

    fn add(&mut self, failure: Failure) {
        self.asked = true;
        let error = &failure.error;
        if error.traits().is_momentary {
            self.momentary = true;
        } else if !error.traits().is_absence && !error.traits().says_when {
            self.lasting = true;
        }
        self.keep(failure);
    }

    /// Adds the reason why an endpoint was not asked. It takes no time to leave it out once more.
    fn add_unasked(&mut self, failure: Failure) {
        self.keep(failure);
    }

    fn and(mut self, failure: Failure) -> Self {
        self.add(failure);
        self
    }

    fn keep(&mut self, failure: Failure) {
        let lacks = matches!(failure.error, FetchError::NotFound { .. });
        let rank = match failure.error.traits().rank {
            _ if lacks && failure.origin => RANK_ORIGIN_LACKS,
            rank => rank,
        };
        let error = failure.error;
        if let FetchError::RateLimited {
            retry_after: Some(left),
        } = error
        {
            self.limited = Some(self.limited.map_or(left, |least| least.min(left)));
        }
        if let FetchError::Unavailable { retry_after: left } = error {
            self.rests = Some(self.rests.map_or(left, |least| least.min(left)));
        }
        let kept = self.final_error.as_ref();
        if kept.is_none_or(|(kept, _)| rank < *kept) {
            self.final_error = Some((rank, error));
        }
    }

    /// True if nobody else's answer would change what is told: the origin lacks it.
    fn settled(&self) -> bool {
        matches!(self.final_error, Some((RANK_ORIGIN_LACKS, _)))
    }

    /// True if asking again may help after a moment: those that are limited are left out then.
    fn for_a_moment(&self) -> bool {
        self.momentary && !self.lasting
    }

    /// Time until asking again may help, because a limit ends, or an endpoint's rest. The latter
    /// is waited for as often as failures of a moment are.
    fn over_in(&self, mut pauses: impl Iterator<Item = Duration>) -> Option<Duration> {
        let rests = || self.rests.filter(|_| !self.lasting);
        let again = || rests().filter(|_| pauses.next().is_some());
        self.limited_for().or_else(again)
    }

    /// Time until asking again may help, because a limit ends.
    fn limited_for(&self) -> Option<Duration> {
        let limited = matches!(self.final_error, Some((_, FetchError::RateLimited { .. })));
        self.limited.filter(|_| limited)
    }

    fn final_error(self) -> FetchError {
        match self.final_error {
            Some((_, FetchError::RateLimited { .. })) => FetchError::RateLimited {
                retry_after: self.limited,
            },
            Some((_, error)) => error,
            None => FetchError::Connect("no endpoint".to_owned()),
        }
    }
}
