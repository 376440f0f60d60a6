"""Which ranks exchange a last message: both of a pair say so, or one would wait for ever."""

from __future__ import annotations

from h5ingest.mpi.mpi4py_comm import met_by


def test_who_has_met_a_rank_has_been_met_by_it() -> None:
    for n_hosts in range(1, 8):
        for each in range(1, 6):
            blocks = [host for host in range(n_hosts) for _ in range(each)]
            in_turn = [host for _ in range(each) for host in range(n_hosts)]
            for placed in (blocks, in_turn, sorted(in_turn[1:]), [*in_turn[::-1], 0]):
                hosts = [f"node{host}" for host in placed]
                met = [met_by(rank, hosts) for rank in range(len(hosts))]
                for rank, others in enumerate(met):
                    assert rank not in others
                    assert all(rank in met[other] for other in others)


def test_a_rank_has_met_those_that_messages_of_trees_and_rings_lead_to() -> None:
    hosts = [f"node{rank // 5}" for rank in range(65)]
    assert met_by(0, hosts) == set(range(1, 65))
    steps = (-64, -32, -16, -8, -4, -2, -1, 1, 2, 4, 8, 16, 32, 64)
    assert met_by(32, hosts) == {0} | {(32 + step) % 65 for step in steps}
    assert met_by(30, hosts) >= {5 * ((6 + step) % 13) for step in steps if abs(step) < 13}
