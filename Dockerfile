# One image for all services of docker-compose.yml: Ray's head and workers, MLflow, the command line.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /build

# The dependencies are a separate layer, built again only when one of the two files changes.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; \
    project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    print(*project['dependencies'], *project['optional-dependencies']['cluster'], sep='\n')" \
        > requirements.txt \
    && python -m pip install --constraint constraints.txt --requirement requirements.txt

COPY . .
RUN python -m pip install --no-deps --constraint constraints.txt . \
    && install -D -m 644 .docker/healthy.py /opt/sumgrad/healthy.py

# Two users without a password, a shell or a home: one for Ray and the command line, one for MLflow.
# New named volumes inherit the owners of these folders.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /sbin/nologin sumgrad \
    && useradd --uid 10002 --user-group --no-create-home --home-dir /tmp --shell /sbin/nologin mlflow \
    && install -d -m 750 -o sumgrad -g sumgrad /runs /gcs /spill \
    && install -d -m 750 -o mlflow -g mlflow /mlflow /mlflow/artifacts /mlflow/tmp \
    && install -d -m 755 /data

USER sumgrad
WORKDIR /data
# Only volumes and /tmp are writable. MLflow would warn that git is missing.
ENV HOME=/tmp \
    GIT_PYTHON_REFRESH=quiet

ENTRYPOINT ["sumgrad"]
