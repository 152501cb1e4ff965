"""The quantile function of the standard normal distribution, with the same bits everywhere.

Algorithm AS 241 (Wichura, 1988) is a quotient of two polynomials in the middle and needs a square
root and a logarithm in the tails. NumPy's float64 logarithm differs in the last bit between
processors, so this module has its own. IEEE 754 fixes the rounding of sums, products, quotients and
square roots, ``frexp`` is exact, and each is a separate NumPy call, so that no compiler can fuse
two of them.
"""

import numpy as np

from sumgrad.model.validation import Array

# fmt: off
#: Coefficients, from the constant term up, for the middle, |u − ½| ≤ 0.425.
_MIDDLE = (
    (3.3871328727963665, 133.14166789178438, 1971.5909503065513, 13731.69376550946,
     45921.95393154987, 67265.7709270087, 33430.57558358813, 2509.0809287301227),
    (1.0, 42.31333070160091, 687.1870074920579, 5394.196021424751,
     21213.794301586597, 39307.89580009271, 28729.085735721943, 5226.495278852854),
)
#: Coefficients for the tails, √(−log p) ≤ 5.
_TAIL = (
    (1.4234371107496835, 4.630337846156546, 5.769497221460691, 3.6478483247632045,
     1.2704582524523684, 0.2417807251774506, 0.022723844989269184, 0.0007745450142783414),
    (1.0, 2.053191626637759, 1.6763848301838038, 0.6897673349851,
     0.14810397642748008, 0.015198666563616457, 0.0005475938084995345, 1.0507500716444169e-9),
)
#: Coefficients for what is farther out.
_FAR_TAIL = (
    (6.657904643501103, 5.463784911164114, 1.7848265399172913, 0.29656057182850487,
     0.026532189526576124, 0.0012426609473880784, 2.7115555687434876e-5, 2.0103343992922881e-7),
    (1.0, 0.599832206555888, 0.1369298809227358, 0.014875361290850615,
     0.0007868691311456133, 1.8463183175100548e-5, 1.421511758316446e-7, 2.0442631033899397e-15),
)
# fmt: on
_LOG_2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476
#: ``log m = 2 Σ s^(2k+1)/(2k+1)`` with ``s = (m−1)/(m+1)``; |s| ≤ 0.172, so 12 terms suffice.
_LOG_SERIES = tuple(2 / (2 * k + 1) for k in range(12))


def normal_quantile(u: Array) -> Array:
    """Return z (N,) with ``P(Z ≤ z) = u`` for 0 < u < 1, (N,); its relative error is < 1e-15."""
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
    return (exponent - low) * _LOG_2 + s * _polynomial(_LOG_SERIES, s * s)
