"""What the server overrides, calls or reads of transformers' serving stack and of uvicorn is as it was."""

import inspect

import pytest
import uvicorn
from transformers.cli.serving import chat_completion, completion, utils
from transformers.generation.continuous_batching import continuous_api

SIGNATURES = {
    utils.CBGenerateManager.__init__: "self cb_config",
    utils.CBGenerateManager.is_alive: "self",
    utils.CBGenerateManager.generate_streaming: ("self model processor inputs gen_config request_id response_parser"),
    utils.CBGenerateManager.generate_non_streaming: "self model processor inputs gen_config request_id",
    utils.CBStreamer.__init__: "self cb_manager request_id tokenizer loop queue response_parser",
    utils.CBStreamer.put: "self output",
    utils.CBStreamer.end: "self",
    utils.CBStreamer.cancel: "self",
    chat_completion.ChatCompletionHandler._streaming: (
        "self request_id model processor model_id inputs gen_config gen_manager tools"
    ),
    chat_completion.ChatCompletionHandler._non_streaming: (
        "self request_id model processor model_id inputs gen_config gen_manager tools"
    ),
    completion.CompletionHandler._non_streaming: (
        "self request_id model processor model_id inputs gen_config gen_manager suffix"
    ),
    utils.BaseHandler.get_processor_inputs_from_messages: "messages modality",
    utils.build_response_parser: "processor model input_ids tools",
    chat_completion.ChatCompletionHandler._build_completion: (
        "self request_id content model_id finish_reason usage tool_calls reasoning_content"
    ),
    completion.CompletionHandler._streaming: (
        "self request_id model processor model_id inputs gen_config gen_manager suffix"
    ),
    continuous_api.ContinuousBatchingManager.add_request: (
        "self input_ids request_id max_new_tokens streaming record_timestamps eos_token_id logit_processor_kwargs"
    ),
    continuous_api.ContinuousBatchingManager.cancel_request: "self request_id",
    continuous_api.ContinuousBatchingManager.register_result_handler: "self request_id callback",
    continuous_api.ContinuousBatchingManager.stop: "self block timeout keep_for_next_session hard_stop",
    continuous_api.ContinuousBatchingManager.warmup: "self",
    uvicorn.Server.handle_exit: "self sig frame",
    uvicorn.Server.main_loop: "self",
    uvicorn.Server.shutdown: "self sockets",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_signature(function):
    assert " ".join(inspect.signature(function).parameters) == SIGNATURES[function]


def test_where_results_are_delivered():
    router = continuous_api.OutputRouter()
    assert router.result_handlers == {}
    with router._lock:
        pass


def test_how_handlers_tell_why_an_answer_has_ended():
    for handler in (chat_completion.ChatCompletionHandler, completion.CompletionHandler):
        for function in (handler._streaming, handler._non_streaming):
            assert "hit_max = gen_config.max_new_tokens is not None and" in inspect.getsource(function)


def test_how_handlers_write_an_error():
    for handler in (chat_completion.ChatCompletionHandler, completion.CompletionHandler):
        assert """.append(f'data: {{"error": "{""" in inspect.getsource(handler._streaming)
