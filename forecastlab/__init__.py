__version__ = "0.1.0"

from .core import help as _help

# In every module of this package, comments beside parameters join the docstrings.
_help.install(__name__)

# Nothing heavy is imported here: a name below loads its module when it is first used.
_home = {
    "Panel": "core.panel",
    "Windows": "core.windows",
    "Forecast": "core.forecast",
    "backtest": "core.backtest",
    "QuantileFunction": "core.distributions",
    "QuantileGrid": "core.distributions",
    "Paths": "core.distributions",
    "Counts": "core.distributions",
    "Conformal": "core.conformal",
    "Calibrated": "core.conformal",
    "Adaptive": "core.conformal",
    "Widths": "core.conformal",
    "load": "core.datasets",
    "load_model": "core.forecaster",
    "LabError": "core.basics",
    "SplineQuantile": "quantile.spline",
    "RecurrentForecaster": "quantile.recurrent",
    "MQF2Forecaster": "quantile.mqf2",
    "MQCNN": "demand.mq",
    "MQRNN": "demand.mq",
    "MQDense": "demand.mq",
    "MQTransformer": "demand.mqtransformer",
    "SeasonalNaive": "demand.textbook",
    "EmpiricalQuantiles": "demand.textbook",
    "CrostonSBA": "demand.textbook",
    "AutoETS": "demand.textbook",
    "AutoTheta": "demand.textbook",
    "PooledClimatology": "demand.textbook",
    "SeasonalProfile": "demand.seasonal_profile",
    "PriceElasticity": "demand.price_elasticity",
    "TSB": "demand.textbook",
    "AutoARIMA": "demand.textbook",
    "Router": "demand.router",
    "DistributionEngine": "demand.distribution_engine",
    "PooledForest": "demand.sqrf",
    "SQRF": "demand.sqrf",
    "contributions": "demand.why",
    "nearest_cases": "demand.why",
    "FeedForward": "demand.feed_forward",
    "RecurrentPoint": "demand.recurrent",
    "BoostedTrees": "demand.trees",
    "AutoForecaster": "demand.auto",
    "ablations": "demand.ablations",
    "XRLinear": "ranking.xrlinear",
    "ExtremeClassifier": "ranking.estimator",
    "XRTransformer": "ranking.xrtransformer",
    "Fields": "earth.fields",
    "open_field": "earth.fields",
    "Nowcaster": "earth.nowcaster",
}
__all__ = sorted(_home)


def __getattr__(name):
    from importlib import import_module

    if name not in _home:
        raise AttributeError(
            f"module 'forecastlab' has no attribute '{name}'; it has"
            f" {', '.join(__all__)}"
        )
    value = globals()[name] = getattr(import_module(f".{_home[name]}", __name__), name)
    return value


def __dir__():
    return sorted({*globals(), *_home})
