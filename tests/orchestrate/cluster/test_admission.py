"""What workers ask of a cluster is compared with what it has before anything waits for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.cluster import admission
from orchestrate.cluster.admission import (
    Request,
    check_device,
    check_request,
    cpu_share,
    fitting,
    missing_line,
    request_of,
    told_what_is_missing,
)
from orchestrate.config.sections import TrackingConfig, WorkersConfig
from qalof.errors import BadInputError

NODES = st.lists(st.integers(0, 64).map(float), min_size=1, max_size=5)


@given(st.integers(1, 100), NODES)
def test_the_share_of_each_worker_is_the_largest_with_which_all_run_at_once(workers, cpus):
    nodes = [{"CPU": node} for node in cpus]
    if sum(cpus) * 100 < workers:
        with pytest.raises(BadInputError, match="workers must fit the cluster"):
            cpu_share(workers, cpus)
        return
    share = cpu_share(workers, cpus)
    assert 0 < share <= 1
    assert fitting(nodes, {"CPU": share}) >= workers
    assert share == 1 or fitting(nodes, {"CPU": share + 0.01}) < workers


def test_a_worker_cannot_span_nodes():
    assert cpu_share(4, [1.0, 2.5]) == 0.83
    assert cpu_share(3, [2.0, 1.0]) == 1
    assert fitting([{"CPU": 0.5}, {"CPU": 0.5}], {"CPU": 1.0}) == 0


def test_too_few_cpus_for_a_hundredth_each_are_refused():
    with pytest.raises(BadInputError, match=r"got 300 for 2 CPUs; 200 or fewer would"):
        cpu_share(300, [2.0])
    with pytest.raises(BadInputError, match="workers must be at least 1"):
        cpu_share(0, [2.0])


@given(
    st.booleans(),
    st.integers(1, 12),
    st.none() | st.integers(1, 12),
    st.lists(st.fixed_dictionaries({"CPU": st.integers(0, 16).map(float), "GPU": st.integers(0, 4).map(float)})),
)
def test_a_request_is_refused_exactly_where_too_few_workers_could_ever_run(gpu, count, least, nodes):
    least = None if least is None else min(least, count)
    workers = WorkersConfig(count=count, gpu=gpu, min_count=least)
    try:
        request = request_of(workers, nodes)
    except BadInputError:
        assert not gpu
        assert sum(node["CPU"] for node in nodes) * 100 < count
        return
    if fitting(nodes, request.each) >= (least or count):
        check_request(request, nodes)
        return
    with pytest.raises(BadInputError, match="^[^\n]*can never be had[^\n]*$"):
        check_request(request, nodes)


@pytest.mark.parametrize(
    ("workers", "nodes", "said"),
    [
        ({"gpu": True, "count": 1}, [{"CPU": 2.0}], "1 worker of 1 GPU can never be had, for the cluster has 0 GPUs on "
         "1 node; set workers.gpu=false"),
        ({"gpu": True, "count": 8}, [{"GPU": 2.0}, {"GPU": 1.0}], "8 workers of 1 GPU each can never be had, for the "
         "cluster has 3 GPUs on 2 nodes; set workers.count=3"),
        ({"gpu": True, "count": 8, "min_count": 4}, [{"GPU": 2.0}], "set workers.min_count=2"),
        ({"count": 4, "min_count": 3}, [{"CPU": 1.0}, {"CPU": 1.5}], "has 2.5 CPUs on 2 nodes; set "
         "workers.min_count=2"),
        ({"count": 2, "min_count": 1}, [{"CPU": 0.5}], "add a node"),
        ({"gpu": True, "count": 1}, [], "0 GPUs on 0 nodes"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_asked_for_what_there_is_and_what_would_do(workers, nodes, said):
    with pytest.raises(BadInputError) as error:
        check_request(request_of(WorkersConfig(**workers), nodes), nodes)
    assert said in str(error.value)


def test_an_elastic_training_may_begin_with_fewer():
    nodes = [{"GPU": 2.0}]
    check_request(request_of(WorkersConfig(gpu=True, count=8, min_count=2), nodes), nodes)


def test_a_cluster_that_grows_is_held_to_what_it_may_grow_to():
    request = request_of(WorkersConfig(gpu=True, count=4), [{"CPU": 2.0}])
    check_request(request, [{"CPU": 2.0}], growth={"GPU": 4})
    with pytest.raises(BadInputError, match=r"cluster grows to 3 GPUs at most; set workers\.gpu=false"):
        check_request(request, [{"CPU": 2.0}], growth={"GPU": 3})


def test_a_gpu_in_this_process_must_be_there():
    with pytest.raises(BadInputError, match=r"this process has none; set workers\.gpu=false"):
        check_device(WorkersConfig(count=1, in_process=True, gpu=True), cuda=False)
    check_device(WorkersConfig(count=1, in_process=True, gpu=True), cuda=True)
    check_device(WorkersConfig(count=1, gpu=True), cuda=False)


def test_what_is_waited_for_is_one_line_that_says_what_is_free():
    line = missing_line(Request(4, {"GPU": 1.0}, 4), 3, [{"GPU": 2.0}, {"GPU": 2.0}], {"GPU": 1.0}, grows=False)
    assert line == (
        "waiting for room: 3 workers of 1 GPU each have no place yet; the cluster has 4 GPU, 1 of them free"
    )
    assert missing_line(Request(1, {"CPU": 1.0}, 1), 1, [{"CPU": 2.0}], {}, grows=True).endswith(
        "the cluster has 2 CPU, 0 of them free; it may add nodes"
    )


def test_every_step_of_a_run_is_compared_with_the_cluster_before_the_first_begins(monkeypatch):
    from contextlib import nullcontext

    from orchestrate.jobs import run as jobs

    monkeypatch.setattr(jobs, "connect", lambda *_, **__: nullcontext())
    monkeypatch.setattr(jobs, "machines", lambda: 1)
    monkeypatch.setattr(admission, "nodes_of", lambda: [{"CPU": 4.0}])
    monkeypatch.setattr(admission, "largest_growth", lambda: None)
    good, bad = WorkersConfig(count=2), WorkersConfig(count=1, gpu=True)
    sqlite = TrackingConfig()
    with jobs.ray_for(good, None, [good, WorkersConfig(count=1, in_process=True)], tracking=sqlite):
        pass
    for workers, others in ((bad, []), (good, [good, bad])):
        with (
            pytest.raises(BadInputError, match="1 worker of 1 GPU can never be had"),
            jobs.ray_for(workers, None, others, tracking=sqlite),
        ):
            pytest.fail("work began")
    monkeypatch.setattr(jobs, "machines", lambda: 3)
    with pytest.raises(BadInputError, match="mlflow server"), jobs.ray_for(good, None, tracking=sqlite):
        pytest.fail("work began")
    for at_ease, tracking in ((good, TrackingConfig(uri="http://127.0.0.1:5000")),
                              (WorkersConfig(count=1, in_process=True), sqlite)):  # fmt: skip
        with jobs.ray_for(at_ease, None, tracking=tracking):
            pass


def test_two_long_bitmaps_that_begin_alike_are_two_metrics_of_training():
    from orchestrate.jobs.train.steps import as_metrics
    from orchestrate.runs.mlflow_values import valid_name
    from qalof.training.loop import StepMetrics

    texts = ["w4a8kv8,w6a8kv8," * 100 + end for end in ("w4a8kv8", "w6a8kv8")]
    done = StepMetrics(1, 0.1, dict.fromkeys(texts, 1.0))
    assert len({valid_name(name) for name in as_metrics(done) if "loss" in name}) == 2


@pytest.mark.ray
def test_a_pool_that_waits_says_so_and_one_that_cannot_start_is_refused(ray_session, monkeypatch):
    import time

    import ray

    from orchestrate.cluster.evaluation_pool import pool_of

    class Doer:
        def do(self, item):
            return item + 1

    with pytest.raises(BadInputError, match="worker of 1 GPU can never be had"):
        pool_of(Doer, WorkersConfig(count=1, gpu=True))
    lines = []
    monkeypatch.setattr(admission, "say", lines.append)
    monkeypatch.setattr(
        "orchestrate.cluster.pool.told_what_is_missing", lambda r: told_what_is_missing(r, interval=0.5)
    )

    @ray.remote(num_cpus=ray.available_resources()["CPU"])
    class Hog:
        pass

    hog = Hog.remote()
    ray.get(hog.__ray_ready__.remote())

    def let_go():
        until = time.monotonic() + 60
        while not lines and time.monotonic() < until:
            time.sleep(0.1)
        ray.kill(hog)

    import threading

    thread = threading.Thread(target=let_go)
    thread.start()
    pool = pool_of(Doer, WorkersConfig(count=2))
    assert pool.map([1, 2, 3]) == [2, 3, 4]
    thread.join()
    pool.close()
    assert "2 workers of 1 CPU each have no place yet" in lines[0], lines
