"""The quantile function of the standard normal distribution, with the same bits everywhere.

Algorithm AS 241 (Wichura, 1988) is a quotient of two polynomials in the middle and needs a square
root and a logarithm in the tails. NumPy's float64 logarithm differs in the last bit between
processors, so this module has its own. IEEE 754 fixes the rounding of sums, products, quotients and
square roots, ``frexp`` is exact, and each is a separate NumPy call, so that no compiler can fuse
two of them.
"""

import numpy as np

from sumgrad.model.validation import Array

#: Coefficients from the constant term up, as published: the middle, |u − ½| ≤ 0.425 …
_MIDDLE = (
    (
        3.3871328727963666080e0,
        1.3314166789178437745e2,
        1.9715909503065514427e3,
        1.3731693765509461125e4,
        4.5921953931549871457e4,
        6.7265770927008700853e4,
        3.3430575583588128105e4,
        2.5090809287301226727e3,
    ),
    (
        1.0,
        4.2313330701600911252e1,
        6.8718700749205790830e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.9307895800092710610e4,
        2.8729085735721942674e4,
        5.2264952788528545610e3,
    ),
)
#: … the tails, √(−log p) ≤ 5 …
_TAIL = (
    (
        1.42343711074968357734e0,
        4.63033784615654529590e0,
        5.76949722146069140550e0,
        3.64784832476320460504e0,
        1.27045825245236838258e0,
        2.41780725177450611770e-1,
        2.27238449892691845833e-2,
        7.74545014278341407640e-4,
    ),
    (
        1.0,
        2.05319162663775882187e0,
        1.67638483018380384940e0,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)
#: … and what is farther out.
_FAR_TAIL = (
    (
        6.65790464350110377720e0,
        5.46378491116411436990e0,
        1.78482653991729133580e0,
        2.96560571828504891230e-1,
        2.65321895265761230930e-2,
        1.24266094738807843860e-3,
        2.71155556874348757815e-5,
        2.01033439929228813265e-7,
    ),
    (
        1.0,
        5.99832206555887937690e-1,
        1.36929880922735805310e-1,
        1.48753612908506148525e-2,
        7.86869131145613259100e-4,
        1.84631831751005468180e-5,
        1.42151175831644588870e-7,
        2.04426310338993978564e-15,
    ),
)
_LOG_2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476
#: ``log m = 2 Σ s^(2k+1)/(2k+1)`` with ``s = (m−1)/(m+1)``; |s| ≤ 0.172, so 12 terms suffice.
_LOG_SERIES = tuple(2 / (2 * k + 1) for k in range(12))


def normal_quantile(u: Array) -> Array:
    """Return z with ``P(Z ≤ z) = u`` for standard normal Z; relative error below 1e-15.

    Args:
        u: (N,), strictly between 0 and 1.
    """
    q = u - 0.5
    z = q * _quotient(_MIDDLE, 0.180625 - q * q)
    tails = np.flatnonzero(np.abs(q) > 0.425)
    p = np.minimum(u[tails], 1 - u[tails])
    r = np.sqrt(-_log(p))
    size = _quotient(_TAIL, r - 1.6)
    far = np.flatnonzero(r > 5)
    size[far] = _quotient(_FAR_TAIL, r[far] - 5)
    z[tails] = np.copysign(size, q[tails])
    return z


def _quotient(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Array) -> Array:
    above, below = coefficients
    return _polynomial(above, x) / _polynomial(below, x)


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Return ``Σ c_k x^k`` by Horner's rule."""
    result = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result *= x
        result += coefficient
    return result


def _log(x: Array) -> Array:
    """Return the natural logarithm of normal positive numbers, to a few units in the last place."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < _SQRT_HALF
    mantissa = np.where(low, 2 * mantissa, mantissa)
    s = (mantissa - 1) / (mantissa + 1)
    result: Array = (exponent - low) * _LOG_2 + s * _polynomial(_LOG_SERIES, s * s)
    return result
