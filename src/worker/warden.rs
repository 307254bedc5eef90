//! The worker's side of its channel: what the warden says, and what it is told.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use super::udp::id::MappingId;
use super::{RECORDS_WAIT, Worker, WorkerError, poll};
use crate::control::channel::ChannelError;
use crate::control::messages::HostView;
use crate::control::worker::{FromWarden, ToWarden};
use crate::log::{Kind, Protocol, Record};
use crate::names::Resolver;
use crate::names::hosts::HostsTable;
use crate::policy::Rule;
use crate::stack::FlowId;

impl Worker {
    /// Hears the warden out.
    pub(super) fn listen(&mut self, readable: bool) -> Result<(), WorkerError> {
        if self.blocked.replace(false) {
            self.want_room(false)?;
            self.ask_again()?;
            self.send_records()?;
        }
        if !readable {
            return Ok(());
        }
        self.messages.heard(self.turn);
        let most = if self.messages.on { usize::MAX } else { 1 };
        for count in 0..most {
            match self.channel.receive() {
                Ok((message, descriptors)) => match message {
                    FromWarden::Ahead => self.ready_dialled(descriptors),
                    FromWarden::Dialled { id } => {
                        if let Some(fd) = descriptors.into_iter().next() {
                            match MappingId::from_bits(id) {
                                Some(mapping) => self.control_dialled(mapping, fd),
                                None => self.dialled(FlowId::from_bits(id), fd),
                            }
                        }
                    }
                    FromWarden::DialFailed { id, error } => match MappingId::from_bits(id) {
                        Some(mapping) => self.association_failed(mapping, error),
                        None => self.dial_failed(FlowId::from_bits(id), error),
                    },
                    FromWarden::Relay { id } => {
                        if let (Some(mapping), Some(fd)) = (MappingId::from_bits(id), descriptors.into_iter().next()) {
                            self.relay_made(mapping, fd);
                        }
                    }
                    FromWarden::Table(table) => {
                        self.table = table;
                        self.judge_again();
                    }
                    FromWarden::Host(view) => self.follow_host(view, descriptors),
                    FromWarden::Woken => self.ready.woken(),
                    FromWarden::Stop => self.begin_drain(),
                    FromWarden::Abandon => {
                        self.over = true;
                        return Ok(());
                    }
                },
                Err(ChannelError::WouldBlock) => {
                    self.messages.emptied(count);
                    break;
                }
                Err(ChannelError::Closed) => return Err(WorkerError::WardenGone),
                // A descriptor that found no room (RLIMIT_NOFILE) cuts its message short. A jail can bring that about, so it
                // ends the one dial, by its deadline, and not the worker.
                Err(ChannelError::Malformed(_)) => {}
                Err(ChannelError::Io(source)) => return Err(WorkerError::System { step: "recvmsg", source }),
            }
        }
        Ok(())
    }

    fn want_room(&self, wanted: bool) -> Result<(), WorkerError> {
        self.poll
            .want_room(self.channel.as_fd(), poll::Token::Channel, wanted)
            .map_err(|errno| WorkerError::System { step: "epoll_ctl", source: errno.into() })
    }

    /// The host's names and resolvers are others now (direct).
    fn follow_host(&mut self, view: HostView, descriptors: Vec<OwnedFd>) {
        let Resolver::Host(names) = &mut self.names else { return };
        let mut text = Vec::new();
        if let Some(file) = descriptors.into_iter().next()
            && File::from(file).read_to_end(&mut text).is_ok()
        {
            names.follow(HostsTable::parse(&text, &view.name), self.table.host.clone());
        }
        self.forwarder.ask(view.resolvers);
    }

    /// Sends a message; false if there is no room for it now.
    pub(super) fn tell(&self, message: &ToWarden) -> Result<bool, WorkerError> {
        match self.channel.send(message) {
            Ok(()) => Ok(true),
            Err(ChannelError::WouldBlock) => {
                if !self.blocked.replace(true) {
                    self.want_room(true)?;
                }
                Ok(false)
            }
            Err(ChannelError::Closed) => Err(WorkerError::WardenGone),
            Err(ChannelError::Malformed(what)) => Err(WorkerError::Message(what)),
            Err(ChannelError::Io(source)) => Err(WorkerError::System { step: "sendmsg", source }),
        }
    }

    /// Keeps a record for the next batch.
    pub(super) fn record(&mut self, record: Record) {
        self.outbox.push(record);
        self.outbox_due.get_or_insert(self.now + RECORDS_WAIT);
    }

    /// Sends batches while there is room; what does not go waits for the channel.
    pub(super) fn send_records(&mut self) -> Result<(), WorkerError> {
        while let Some(batch) = self.outbox.take() {
            let message = ToWarden::Records(batch);
            if !self.tell(&message)? {
                if let ToWarden::Records(batch) = message {
                    self.outbox.put_back(batch);
                }
                break;
            }
        }
        Ok(())
    }

    /// The record of something that was refused without a dial.
    pub(super) fn refused(&mut self, protocol: Protocol, address: IpAddr, port: Option<u16>, rule: Rule) {
        let mut record = Record::new(Kind::Flow, protocol, rule, self.table.generation);
        record.address = Some(address);
        record.port = port;
        self.record(record);
    }
}
