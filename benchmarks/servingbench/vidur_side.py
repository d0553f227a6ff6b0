"""vidur's side of ``serving.py``: run by the Python of an environment that holds vidur and not this project.

    python [-O] vidur_side.py TRACE CAPACITY PAGE CHUNK RESERVED STEP PER_REQUEST PER_TOKEN PER_PROMPT_TOKEN

Simulates one server with vidur's Sarathi scheduler (chunked prefill) on the requests of a trace in vidur's own format,
and prints a line of JSON: seconds of processor time, and when each request had its first and its last token; or the
error with which vidur stopped.

Its execution-time predictors learn from profiles that they download. In their place stands a linear one, registered
as vidur's registry provides for, with the constants that are given.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
import traceback

from vidur.config import (
    CacheConfig,
    ClusterConfig,
    MetricsConfig,
    ReplicaConfig,
    SarathiSchedulerConfig,
    SimulationConfig,
    TraceRequestGeneratorConfig,
)
from vidur.config import LinearRegressionExecutionTimePredictorConfig as PredictorConfig
from vidur.entities import Batch
from vidur.execution_time_predictor import BaseExecutionTimePredictor, ExecutionTimePredictorRegistry
from vidur.simulator import Simulator
from vidur.types import ExecutionTimePredictorType

LINEAR = ExecutionTimePredictorType.LINEAR_REGRESSION


class Linear(BaseExecutionTimePredictor):
    """A decode step takes ``step + per_request * decoding + per_token * held``, a prompt ``per_prompt_token`` a token.

    All of it is booked as attention, for vidur adds the parts up; the other parts take no time.
    """

    step = per_request = per_token = per_prompt_token = 0.0

    def _get_attention_decode_execution_time(self, batch: Batch) -> float:
        """Milliseconds per layer."""
        decoding = held = prompt = 0
        for request, new, total in zip(batch.requests, batch.num_q_tokens, batch.num_kv_tokens):
            if request.is_prefill_complete:
                decoding += 1
                held += total - new
            else:
                prompt += new
        seconds = self.per_prompt_token * prompt
        if decoding:
            seconds += self.step + self.per_request * decoding + self.per_token * held
        return 1e3 * seconds / self._num_layers_per_pipeline_stage

    def _nothing(self, batch: Batch) -> float:
        return 0.0

    _get_attention_layer_pre_proj_execution_time = _nothing
    _get_attention_layer_post_proj_execution_time = _nothing
    _get_attention_rope_execution_time = _nothing
    _get_attention_kv_cache_save_execution_time = _nothing
    _get_attention_prefill_execution_time = _nothing
    _get_mlp_layer_up_proj_execution_time = _nothing
    _get_mlp_layer_down_proj_execution_time = _nothing
    _get_mlp_layer_act_execution_time = _nothing
    _get_tensor_parallel_communication_time = _nothing
    _get_pipeline_parallel_communication_time = _nothing
    _get_mlp_norm_layer_act_execution_time = _nothing
    _get_attn_norm_layer_act_execution_time = _nothing
    _get_add_layer_act_execution_time = _nothing
    _get_kv_parallel_communication_time = _nothing


def main() -> None:
    trace, capacity, page, chunk, reserved = sys.argv[1], *(int(x) for x in sys.argv[2:5]), float(sys.argv[5])
    Linear.step, Linear.per_request, Linear.per_token, Linear.per_prompt_token = (float(x) for x in sys.argv[6:])
    ExecutionTimePredictorRegistry.unregister(LINEAR)
    ExecutionTimePredictorRegistry.register(LINEAR, Linear)
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        replica = ReplicaConfig(
            "meta-llama/Llama-2-7b-hf",
            num_pipeline_stages=1,
            tensor_parallel_size=1,
            device="a100",
            network_device="a100_pairwise_nvlink",
        )
        cache = CacheConfig(page, capacity // page, reserved)
        cluster = ClusterConfig(1, replica, cache, replica_scheduler_config=SarathiSchedulerConfig(1024, chunk))
        # Scale factors of 1: lengths and times are taken as they are.
        generator = TraceRequestGeneratorConfig(
            trace_file=trace,
            date="all",
            prefill_scale_factor=1,
            decode_scale_factor=1,
            time_scale_factor=1,
            max_tokens=2**30,
        )
        metrics = MetricsConfig(write_metrics=False, enable_chrome_trace=False, output_dir=folder)
        simulator = Simulator(SimulationConfig(42, "error", 0, cluster, generator, PredictorConfig(), metrics))
        requests = sorted((event._request for _, event in simulator._event_queue), key=lambda request: request.id)
        begun = time.process_time()
        try:
            simulator.run()
        except AssertionError as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            print(json.dumps({"error": f"{place.name}: {place.line}"}))
            return
        seconds = time.process_time() - begun
    print(
        json.dumps(
            {
                "seconds": seconds,
                "first": [request.prefill_completed_at for request in requests],
                "end": [request.completed_at for request in requests],
                "evictions": sum(request._num_restarts for request in requests),
            }
        )
    )


if __name__ == "__main__":
    main()
